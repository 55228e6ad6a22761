"""The page's files as they are served, and the page in a real browser."""

import json
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.testclient import TestClient

from model.images import open_image
from service.app import create_app
from service.engine.client import Client
from service.engine.job import LoadedModel
from service.loading import create_client
from service.routes.playground import NAMES
from service.settings import Settings
from tests.service.local_client import local_client

FOLDER = Path("service/playground")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def test_the_page_and_all_its_files_are_served_with_a_strict_policy(web: TestClient) -> None:
    answers = [web.get("/"), *(web.get(f"/playground/{name}") for name in sorted(NAMES))]
    for answer in answers:
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http" not in policy


def test_no_file_is_missing_and_none_comes_from_elsewhere() -> None:
    text = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert text.keys() == NAMES | {"index.html"}
    used = set(re.findall(r'"(?:/playground|\.)/([\w.]+)"', "".join(text.values())))
    assert used == NAMES
    for name, content in text.items():
        assert "https://" not in content, name
        assert "http://" not in content.replace("http://www.w3.org/2000/svg", ""), name
        assert not re.search(r"\son\w+=|\sstyle=", content if name == "index.html" else ""), name


def test_other_files_are_not_served(web: TestClient) -> None:
    for path in ("/playground/index.html", "/playground/..%2fapp.py", "/playground/nothing.js"):
        assert web.get(path).status_code == 404


def test_an_operator_may_turn_it_off(loaded: LoadedModel, make_client: Callable[..., Client]) -> None:
    with local_client(create_app(Settings(playground=False), make_client(loaded))) as client:
        assert client.get("/").status_code == 404
        assert client.get("/playground/page.js").status_code == 404


# In Chromium


def chromium() -> str:
    """Return Debian's Chromium, installed if it must be."""
    if not shutil.which("chromium"):
        subprocess.run(["apt-get", "install", "-y", "-q", "chromium"], check=True)
    found = shutil.which("chromium")
    assert found, "chromium is not there and cannot be installed"
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(run_server: Any) -> Iterator[str]:
    """A real server of the shipped checkpoint."""
    settings = Settings(port=0, engine="inline", log_level="warning")
    with run_server(settings, create_client(settings)) as server:
        yield server.url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, ready; whatever the browser complains about fails the test."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    expect(page.get_by_text("hbridge-tiny (hbridge) is ready.")).to_be_visible()
    yield page
    context.close()
    assert [words for words in complaints if "status of 4" not in words] == []


def run(page: Page, name: str, words: str, seed: int = 1) -> None:
    page.get_by_role("textbox", name=re.compile("Prompt|Instruction|Question")).first.fill(words)
    if not page.get_by_label("Seed").is_visible():
        page.get_by_text("Settings").click()
    page.get_by_label("Seed").fill(str(seed))
    page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def keep(page: Page, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that keeps a screenshot where `--pictures` says."""

    def keep(name: str) -> None:
        if folder := request.config.getoption("--pictures"):
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    return keep


def shown(page: Page) -> Any:
    """The picture on the page, as pixels."""
    source = page.locator("#made img").first.get_attribute("src")
    assert source
    return open_image(b64decode(source.partition(",")[2]))


def draw_star(page: Page) -> None:
    run(page, "Generate", "a large yellow star on a blue background")
    expect(page.get_by_text(re.compile(r"s, seed 1\."))).to_be_visible(timeout=60_000)


def assert_accessible(page: Page) -> None:
    page.evaluate(AXE)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    assert not found, json.dumps([(each["id"], each["nodes"][0]["html"]) for each in found], indent=1)


@pytest.mark.slow
def test_a_picture_is_generated_with_looks_and_progress(page: Page, keep: Callable[[str], None]) -> None:
    page.evaluate(
        """() => {
          window.seen = new Set();
          new MutationObserver(() => {
            window.seen.add(document.querySelector('#stage').textContent.split(' ')[0]);
            const image = document.querySelector('#made img');
            if (image) window.seen.add(image.alt);
          }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
        }"""
    )
    draw_star(page)
    seen = set(page.evaluate("[...window.seen]"))
    assert {"denoise", "A rough look at the picture in the making"} <= seen
    assert shown(page).size == (64, 64)
    expect(page.locator("#history li")).to_have_count(1)
    keep("playground")


@pytest.mark.slow
def test_what_was_made_is_edited_and_the_mask_keeps_the_rest(page: Page, keep: Callable[[str], None]) -> None:
    draw_star(page)
    before = shown(page)
    page.get_by_role("button", name="Edit this").click()
    expect(page.get_by_role("radio", name="Edit")).to_be_checked()
    page.get_by_label("Change only what I paint").check()
    canvas = page.locator("#mask")
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 10, steps=5)
    page.mouse.up()
    run(page, "Edit", "make the background black")
    expect(page.locator("#history li")).to_have_count(2, timeout=60_000)
    after = shown(page)
    lower = (0, 32, 64, 64)
    assert after.crop(lower).tobytes() == before.crop(lower).tobytes()
    assert after.tobytes() != before.tobytes()
    keep("playground-edit")


@pytest.mark.slow
def test_what_was_asked_before_is_asked_again(page: Page) -> None:
    draw_star(page)
    before = shown(page)
    run(page, "Generate", "a red circle on a green background", seed=2)
    expect(page.locator("#history li")).to_have_count(2, timeout=60_000)
    page.locator("#history button").last.click()
    expect(page.get_by_label("Seed")).to_have_value("1")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#history li")).to_have_count(3, timeout=60_000)
    assert shown(page).tobytes() == before.tobytes()


@pytest.mark.slow
def test_a_question_is_answered(page: Page) -> None:
    page.get_by_role("radio", name="Ask").check()
    page.locator("#files").set_input_files("docs/pictures/question.png")
    run(page, "Ask", "how many shapes are there?")
    expect(page.locator("#answer")).to_have_text("2", timeout=60_000)


@pytest.mark.slow
def test_a_request_can_be_cancelled(page: Page, url: str) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Steps").fill("200")
    run(page, "Generate", "a red circle")
    expect(page.get_by_text(re.compile("denoise"))).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()
    page.wait_for_function(
        "async () => (await (await fetch('/metrics')).text()).includes('hbridge_requests_running 0.0')"
    )


@pytest.mark.slow
def test_an_error_is_shown_where_it_belongs(page: Page) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Width").fill("63")
    page.get_by_label("Height").fill("64")
    run(page, "Generate", "a red circle")
    expect(page.get_by_role("alert")).to_contain_text("size 63x64 is not possible")
    page.get_by_role("textbox", name="Prompt", exact=True).fill("")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("prompt")
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_be_focused()


@pytest.mark.slow
def test_a_copied_command_makes_the_same_picture(page: Page, tmp_path: Path) -> None:
    draw_star(page)
    before = shown(page)
    for button, program in (("Copy as curl", ["bash", "-c"]), ("Copy as Python", ["python", "-c"])):
        page.get_by_role("button", name=button).click()
        expect(page.get_by_text("Copied.")).to_be_visible()
        text = page.evaluate("navigator.clipboard.readText()")
        done = subprocess.run([*program, text], cwd=tmp_path, capture_output=True, check=True)
    image = json.loads(done.stdout)["images"][0]["b64_json"] if done.stdout else None
    assert open_image((tmp_path / "out-0.png").read_bytes()).tobytes() == before.tobytes()
    assert image is None


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_in_every_task_and_on_a_phone(
    page: Page, keep: Callable[[str], None], scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_text("Settings").click()
    page.locator("#files").set_input_files("docs/pictures/question.png")
    for task in ("Generate", "Edit", "Ask"):
        page.get_by_role("radio", name=task).check()
        assert_accessible(page)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{task} is {width} pixels wide"
    keep(f"playground-phone-{scheme}")


@pytest.mark.slow
def test_it_works_with_keys_alone(page: Page) -> None:
    page.locator("#files").set_input_files("docs/pictures/question.png")
    page.get_by_label("Edit").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Edit")).to_be_checked()
    page.get_by_label("Change only what I paint").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(page.locator("#mask")).to_be_focused()
    blank = page.evaluate("document.querySelector('#mask').toDataURL()")
    for name in ("ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(name)
    assert page.evaluate("document.querySelector('#mask').toDataURL()") != blank
