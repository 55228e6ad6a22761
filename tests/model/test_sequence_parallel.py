import torch

from model.attention import Segments, attend, attend_joined
from model.sequence_parallel import Seen

LENGTHS = 5, 1, 7, 3
BEFORE = 2, 0, 4, 1


def test_a_stretch_sees_what_its_tokens_see() -> None:
    generator = torch.Generator().manual_seed(0)
    q_THD = torch.randn(16, 4, 8, generator=generator)
    own = torch.randn(2, 16, 2, 8, generator=generator).unbind()
    before = torch.randn(2, 7, 2, 8, generator=generator).unbind()
    joined = tuple(map(sum, zip(LENGTHS, BEFORE, strict=True)))
    segments = Segments(LENGTHS, joined, before_lengths=BEFORE)
    whole = attend_joined(q_THD, (own[0], own[1]), (before[0], before[1]), segments)
    alone = attend(q_THD, *own, Segments.own(LENGTHS))
    for begin in range(16):
        for end in range(begin + 1, 17):
            seen = Seen.of(segments, begin, end)
            assert seen.num_queries == end - begin
            keys = own[0][seen.own], own[1][seen.own]
            apart = before[0][seen.before], before[1][seen.before]
            found = attend_joined(q_THD[begin:end], keys, apart, seen.segments)
            torch.testing.assert_close(found, whole[begin:end], rtol=0, atol=1e-6)
            seen = Seen.of(Segments.own(LENGTHS), begin, end)
            found = attend(q_THD[begin:end], own[0][seen.own], own[1][seen.own], seen.segments)
            torch.testing.assert_close(found, alone[begin:end], rtol=0, atol=1e-6)


def test_nothing_sees_nothing() -> None:
    seen = Seen.of(Segments.own(LENGTHS), 16, 16)
    assert (seen.segments.q_lengths, seen.num_queries, seen.own) == ((), 0, slice(0, 0))
