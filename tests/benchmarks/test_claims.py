import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.claims import CLAIMS, Comparison, Difference, Plan, changed, page, plot
from benchmarks.cli import app
from training.recipe import Recipe

ALIKE = ("tokenizer", "vae", "latents", "vlm", "prior", "prefill")


def result(arm: str, seed: int, loss: float) -> dict[str, Any]:
    return {
        "arm": arm,
        "seed": seed,
        "score": 1 - loss,
        "flow_loss": loss,
        "curve": [(10, 2 * loss), (20, loss)],
    }


RESULTS = [result("a", seed, 0.2 + 0.01 * seed) for seed in (1, 2, 3)] + [
    result("b", seed, 0.3 + 0.011 * seed) for seed in (1, 2, 3)
]


def test_a_change_reaches_any_depth_and_leaves_the_base_alone() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert changed(base, {"a": {"c": {"d": 4}}}, {"e": None}) == {"a": {"b": 1, "c": {"d": 4}}, "e": None}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_a_difference_is_told_only_where_its_interval_leaves_zero() -> None:
    steady = Difference.of({1: 1.0, 2: 1.1, 3: 1.2}, {1: 0.5, 2: 0.61, 3: 0.69})
    assert steady.mean == pytest.approx(0.5)
    assert steady.verdict == "higher"
    assert Difference.of({1: 0.5, 2: 0.6}, {1: 1.0, 2: 1.11}).verdict == "lower"
    assert Difference.of({1: 1.0, 2: 0.0}, {1: 0.0, 2: 1.0}).verdict == "not told apart"
    assert Difference.of({1: 1.0, 2: 2.0, 3: 9.0}, {1: 0.0, 2: 1.5}).count == 2
    with pytest.raises(ValueError, match="two seeds"):
        Difference.of({1: 1.0}, {1: 0.0})


def test_the_interval_is_students() -> None:
    """Three values of deviation 1: 4.303 / sqrt(3)."""
    assert Difference.of({1: 1.0, 2: 2.0, 3: 3.0}, dict.fromkeys((1, 2, 3), 0.0)).half == pytest.approx(
        2.484, abs=1e-3
    )


def test_arms_differ_in_what_they_say_and_share_the_rest(tmp_path: Path) -> None:
    plan = Plan.read(CLAIMS, tmp_path / "runs", tmp_path / "claims")
    assert {each for c in plan.comparisons for each in (c.better, c.worse)} == {t.arm for t in plan.trials}
    assert len({t.seed for t in plan.trials}) >= 3
    of = {(t.arm, t.seed): t for t in plan.trials}
    base, other = of["middle layers", 1], of["middle layers", 2]
    for arm, apart in {
        "all layers": {"prefill"},
        "one layer": {"prefill"},
        "no reconstruction loss": set(),
        "no prior": set(),
        "brief expert": {"vlm", "prefill"},
        "small brief expert": {"vlm", "prefill"},
    }.items():
        assert {s for s in ALIKE if of[arm, 1]._place(s) != base._place(s)} == apart, arm
    assert {s for s in ALIKE if other._place(s) != base._place(s)} == {"prior"}
    assert of["brief expert", 1]._place("vlm") != of["small brief expert", 1]._place("vlm")
    assert base._place("vlm") == tmp_path / "runs/tiny/vlm"


def test_the_page_shows_every_arm_and_every_claim(tmp_path: Path) -> None:
    text = page(RESULTS, [Comparison(better="a", worse="b", claim="a is better")], "claims")
    assert "| a | 3 | 0.2200 (0.2100 to 0.2300) | 0.7800 (0.7700 to 0.7900) |" in text
    assert "| a is better | a less b | -0.1020 ± 0.0025, lower |" in text
    plot(RESULTS, tmp_path / "claims.png")
    assert (tmp_path / "claims.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_trials_are_trained_scored_and_not_run_again(tmp_path: Path) -> None:
    Recipe("tiny", tmp_path / "runs").unpack()
    plan = yaml.safe_load(CLAIMS.read_text())
    plan["seeds"] = [1, 2]
    plan["arms"] = {name: plan["arms"][name] for name in ("middle layers", "no prior")}
    plan["comparisons"] = [["middle layers", "no prior", "a prior helps"]]
    plan["changes"]["latents"]["groups"][0]["count"] = 8
    for stage in ("prior", "bridge"):
        plan["changes"][stage]["schedule"] |= {
            "steps": 2,
            "batch": 4,
            "micro_batch": 4,
            "look_every": 2,
            "log_every": 1,
        }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    given = {"plan": "plan.yaml", "trained": "runs", "runs": "claims", "output": "record.json"}
    options = [word for name, path in given.items() for word in (f"--{name}", str(tmp_path / path))]
    done = CliRunner().invoke(app, ["claims", *options, "--per-kind", "1"])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert [(each["arm"], each["seed"]) for each in record["results"]] == [
        (arm, seed) for seed in (1, 2) for arm in ("middle layers", "no prior")
    ]
    losses = [each["flow_loss"] for each in record["results"]]
    assert len(set(losses)) == 4
    kept = tmp_path / "claims/middle-layers-1/result.json"
    kept.write_text(json.dumps({**record["results"][0], "flow_loss": 7.0}))
    again = CliRunner().invoke(app, ["claims", *options, "--per-kind", "1"])
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "record.json").read_text())["results"][0]["flow_loss"] == 7.0
