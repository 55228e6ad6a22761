import pytest

from service.errors import MissingScope
from service.tenant import LOCAL, SCOPES, Scope, Tenant


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_is_granted_to_who_has_it_and_to_admins(scope: Scope) -> None:
    Tenant(name="a", scopes=frozenset({scope})).check_scopes(scope)
    Tenant(name="a", scopes=frozenset({"admin"})).check_scopes(*SCOPES)
    LOCAL.check_scopes(*SCOPES)
    others = frozenset(SCOPES) - {scope, "admin"}
    with pytest.raises(MissingScope, match=scope):
        Tenant(name="a", scopes=others).check_scopes("jobs" if scope != "jobs" else "edit", scope)


def test_a_refusal_says_what_the_key_has() -> None:
    with pytest.raises(MissingScope, match=r"'jobs'; yours has edit, generate"):
        Tenant(name="a", scopes=frozenset({"generate", "edit"})).check_scopes("generate", "jobs")


def test_who_needs_no_key_is_no_tenant_that_a_key_could_have() -> None:
    assert LOCAL.name == ""
