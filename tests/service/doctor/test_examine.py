import shutil
from pathlib import Path

import pytest

from model.family import Size
from service.doctor.examine import Ask, examine, usual_sizes
from service.doctor.report import Report
from service.doctor.weights import read
from service.settings import Settings

TINY = Ask(sizes=(Size(32, 32),), counts=(1,))
SMALL = Ask(sizes=(Size(64, 64),), counts=(1,))


def test_the_shipped_checkpoint_can_be_served_and_takes_a_real_step(report: Report) -> None:
    assert report.can_serve
    assert report.reasons == []
    assert report.model
    assert report.speed
    assert report.model.checkpoint == "found"
    assert {case.task for case in report.cases} == {"generate", "edit"}
    assert report.measured
    assert report.measured.step_seconds > 0
    done = report.measured.expected_seconds / report.measured.step_seconds
    assert report.measured.matmul_share == pytest.approx(done)
    for case in report.cases:
        for stage, seconds in case.expected_seconds.items():
            assert seconds * report.speed.matmul_flops_per_second == pytest.approx(case.flops[stage])


def test_more_pictures_and_larger_ones_need_more(report: Report) -> None:
    for case in report.cases:
        assert case.needed_bytes[1] <= case.needed_bytes[4]
    small, large = [case for case in report.cases if case.task == "generate"]
    assert small.needed_bytes[4] < large.needed_bytes[4]
    assert small.at_once > large.at_once


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_a_way_out() -> None:
    settings = Settings(model="hbridge", device="cuda", dtype="bfloat16", load_format="random")
    tight, roomy = (
        examine(settings, Ask(sizes=SMALL.sizes, counts=(1,), memory_bytes=memory))
        for memory in (18_000_000_000, 80_000_000_000)
    )
    assert not any(case.fits[1] for case in tight.cases)
    assert any("25.0 GB, 18.0 GB are free" in reason for reason in tight.reasons)
    assert "--quantization int8" in tight.advice[-1]
    assert "--offload layers" in tight.advice[-1]
    assert all(case.fits[1] for case in roomy.cases)
    assert roomy.advice == []
    assert not [reason for reason in roomy.reasons if "GB" in reason]


def test_a_model_of_which_only_configs_are_here_says_what_to_name(model_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(model_folder / name, tmp_path / name)
    report = examine(Settings(model=str(tmp_path)), TINY)
    assert not report.can_serve
    assert report.measured is None
    assert "--load-format random" in report.reasons[0]
    assert report.model
    assert report.model.checkpoint == "configs only"
    assert examine(Settings(model=str(tmp_path), load_format="random"), TINY).can_serve


def test_a_broken_folder_is_refused_with_what_is_wrong(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    report = examine(Settings(model=str(folder)), TINY)
    assert not report.can_serve
    assert report.model
    assert report.model.checkpoint == "broken"
    assert file.name in report.reasons[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "poodle"}, "poodle is no folder"),
        ({"quantization": "fp8"}, "capability 8.9"),
    ],
)
def test_what_cannot_be_at_all_is_a_reason(fields: dict[str, str], says: str) -> None:
    report = examine(Settings(**fields), SMALL)  # type: ignore[arg-type]
    assert not report.can_serve
    assert any(says in reason for reason in report.reasons)


def test_a_checkpoint_that_reads_no_words_is_a_reason(golden_folder: Path) -> None:
    report = examine(Settings(model=str(golden_folder)), Ask())
    assert not report.can_serve
    assert "tokenizer" in report.reasons[0]


def test_a_size_that_is_not_made_is_a_reason() -> None:
    assert "48x48" in examine(Settings(), Ask(sizes=(Size(48, 48),))).reasons[0]


def test_a_device_that_is_not_here_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    report = examine(Settings(device="cuda"), SMALL)
    assert report.reasons == ["device cuda is not usable here"]
    assert report.speed is None


def test_memory_that_an_operator_allows_is_all_there_is() -> None:
    report = examine(Settings(max_memory_bytes=1), SMALL)
    assert not report.can_serve
    assert [case.at_once for case in report.cases] == [0] * len(report.cases)


def test_usual_sizes_are_possible_ones() -> None:
    can = read(Path("model/published/hbridge"))[0].capabilities
    assert usual_sizes(can) == [Size(512, 512), Size(1024, 1024)]


@pytest.mark.gpu
def test_a_gpu_serves_the_shipped_checkpoint() -> None:
    report = examine(Settings(device="cuda", dtype="bfloat16"), SMALL)
    assert report.can_serve
    assert report.speed
    assert report.speed.host_copy_bytes_per_second
