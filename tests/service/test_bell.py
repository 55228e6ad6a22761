import asyncio

from service.bell import Bell


def test_a_ring_wakes_those_who_listen_for_this_job_and_nobody_else() -> None:
    async def run() -> None:
        bell = Bell()
        with bell.listen("a") as one, bell.listen("a") as two, bell.listen("b") as other:
            bell.ring("a")
            assert (one.is_set(), two.is_set(), other.is_set()) == (True, True, False)

    asyncio.run(run())


def test_who_listens_no_more_leaves_nothing_behind() -> None:
    async def run() -> None:
        bell = Bell()
        with bell.listen("a") as news:
            pass
        bell.ring("a")
        assert not news.is_set()
        assert not bell._listeners

    asyncio.run(run())
