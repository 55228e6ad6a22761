from model.qwen_vl.branching import Branching


def test_a_branch_sees_its_prefix_and_itself() -> None:
    branching = Branching.of((2, 1), ((1, 2), (1,)))
    assert branching.segments.q_lengths == (2, 1, 1, 2, 1)
    assert branching.segments.kv_lengths == (2, 1, 3, 4, 2)
    assert branching.key_index_S.tolist() == [0, 1, 2, 0, 1, 3, 0, 1, 4, 5, 2, 6]
