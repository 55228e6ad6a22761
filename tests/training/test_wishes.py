from random import Random

from training.wishes import Want, Wish, draw_want
from training.world import Kind, Scene, Thing

RED_CIRCLE = Thing("circle", "red", "large", 16, 32, 8.5)
BLUE_SQUARE = Thing("square", "blue", "small", 48, 32, 5)
WANTS = (Want(shape="circle", colour="red"), Want(shape="square", colour="blue", size="small"))


def test_a_wish_is_strict_about_spare_and_missing_things() -> None:
    wish = Wish(wants=(Want(shape="circle"),))
    assert wish.is_met(Scene("white", (RED_CIRCLE,)))
    assert not wish.is_met(Scene("white", (RED_CIRCLE, BLUE_SQUARE)))
    assert not wish.is_met(Scene("white", ()))


def test_a_wish_binds_colours_relations_and_background() -> None:
    scene = Scene("green", (RED_CIRCLE, BLUE_SQUARE))
    assert Wish(wants=WANTS, relations=((0, "left", 1),), background="green").is_met(scene)
    assert not Wish(wants=WANTS, relations=((0, "right", 1),)).is_met(scene)
    assert not Wish(wants=WANTS, background="pink").is_met(scene)
    swapped = (Want(shape="circle", colour="blue"), Want(shape="square", colour="red"))
    assert not Wish(wants=swapped).is_met(scene)


def test_the_order_of_things_does_not_matter() -> None:
    wish = Wish(wants=WANTS, relations=((0, "left", 1),))
    assert wish.is_met(Scene("green", (RED_CIRCLE, BLUE_SQUARE)))
    assert wish.is_met(Scene("green", (BLUE_SQUARE, RED_CIRCLE)))


def test_one_thing_cannot_meet_two_wants() -> None:
    wish = Wish(wants=(Want(shape="circle"), Want(colour="red")))
    assert not wish.is_met(Scene("white", (RED_CIRCLE, BLUE_SQUARE)))


def test_an_exact_want_takes_the_same_kind_anywhere_and_no_other() -> None:
    want = Want.exactly(RED_CIRCLE)
    assert want.holds(Thing("circle", "red", "large", 40, 50, 8), 64, 64)
    assert not want.holds(Thing("circle", "red", "small", 16, 32, 5), 64, 64)


def test_a_region_is_wanted_of_the_centre() -> None:
    assert Want(region="left").holds(RED_CIRCLE, 64, 64)
    assert not Want(region="right").holds(RED_CIRCLE, 64, 64)


def test_a_drawn_want_names_what_is_certain_and_never_what_is_impossible() -> None:
    kind = Kind("star", "green", "small")
    for seed in range(20):
        assert draw_want(Random(seed), kind, size=1) == Want(shape="star", colour="green", size="small")
        assert draw_want(Random(seed), kind, size=0, colour=0, shape=0) == Want()


def test_what_has_no_name_is_not_wanted() -> None:
    kind = Kind("star~cross", "#804020", "small")
    assert Want.like(kind, "shape", "colour", "size") == Want(size="small")
