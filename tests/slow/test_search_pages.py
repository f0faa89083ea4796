"""The pages of clip-search in a real browser, with a real server: what they do, and how they look.

Screenshots are written to build/screenshots.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from clip_client import ClipClient, embed_all, open_sink, open_source
from clip_search.cli import main
from clip_serving.server.embedded import TritonServer
from testing.pictures import camera_photos, encoded, noise
from testing.repositories import repository_with_text
from testing.servers import short_lived
from testing.waiting import PATIENCE_S
from tests.unit.search.pages import served

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
ATTACK = "document.title = `attacked`"
HOSTILE = [f'<img src=x onerror="{ATTACK}">.jpg', f"\"onerror='{ATTACK}'.jpg", "\x1b[31mred\u202egpj.jpg"]
LONG = "a-name-without-spaces-" * 8 + ".png"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 375, "height": 800}},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Camera photos, a copy, a smaller copy, some with hostile names, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = camera_photos(9)
    for number, data in enumerate(pictures):
        (folder / f"2024-0{number + 1}-holiday.jpg").write_bytes(data)
    for name, data in zip(HOSTILE, pictures, strict=False):
        (folder / name).write_bytes(data)
    (folder / LONG).write_bytes(encoded(noise(300, 200), "PNG"))
    (folder / "notes.jpg").write_text("not a photo")
    return folder


@pytest.fixture(scope="module")
def both(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with the image and the text tower."""
    with short_lived(repository_with_text(small_repository, tmp_path_factory.mktemp("both"))) as server:
        yield server


@pytest.fixture(scope="module")
def dataset(photos: Path, both: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search") / "embeddings.parquet"
    with ClipClient(both.grpc_url) as client:
        embed_all(client, open_source(str(photos)), open_sink(str(out)))
    return out


@pytest.fixture(scope="module")
def address(dataset: Path, both: TritonServer) -> Iterator[str]:
    with served(dataset, "--url", both.grpc_url, "-k", "12") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    rules = "--host-resolver-rules=MAP attacker.example 127.0.0.1"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", rules])
        yield started
        started.close()


@pytest.fixture(params=LOOKS)
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page in one of LOOKS, on which nothing may fail, such as a script that its policy forbids."""
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    context = browser.new_context(**LOOKS[request.param])
    context.set_default_timeout(1000 * PATIENCE_S)
    opened = context.new_page()
    opened.on("console", note)
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    context.close()
    assert said == []


def looks(page: Page, name: str, request: pytest.FixtureRequest) -> None:
    """Takes a screenshot. Nothing may stick out to the right, and no name of a file may have run."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{request.node.callspec.params['page']}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "attacked" not in page.title().replace(ATTACK, "")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_search_by_words_row_and_photo(
    address: str, photos: Path, page: Page, request: pytest.FixtureRequest
) -> None:
    page.goto(address)
    expect(page.get_by_text("13 photos in embeddings.parquet")).to_be_visible()
    looks(page, "search-start", request)

    page.get_by_role("searchbox").fill("two people at <b>sunset</b>")
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("heading", name="two people at <b>sunset</b>")).to_be_visible()
    expect(page.get_by_role("figure")).to_have_count(12)
    looks(page, "search-text", request)

    card = page.get_by_role("figure").filter(has_text="2024-05-holiday.jpg")
    card.get_by_role("link", name="similar photos").click()
    expect(page.get_by_role("heading", name="Photos like 2024-05-holiday.jpg")).to_be_visible()
    expect(card).to_have_count(0)

    page.get_by_label("A photo").set_input_files(photos / "2024-07-holiday.jpg")  # sent at once
    expect(page.get_by_role("figure").first).to_contain_text("1.000 2024-07-holiday.jpg")
    expect(page.get_by_alt_text("your photo")).to_be_visible()
    looks(page, "search-photo", request)


DROP = """([data, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(data)], name));
  const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
  document.body.dispatchEvent(new DragEvent('drop', options));
}"""


def test_dropped_files(address: str, photos: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(address)
    for name, shown, text in ((LONG, "figure.card", f"1.000 {LONG}"), ("notes.jpg", ".problem", "JPEG")):
        with page.expect_navigation():
            page.evaluate(DROP, [list((photos / name).read_bytes()), name])
        expect(page.locator(shown).first).to_contain_text(text)
    page.close()


def test_names_of_files_run_nowhere(address: str, page: Page, request: pytest.FixtureRequest) -> None:
    page.goto(address)
    page.get_by_role("searchbox").fill("anything")
    page.get_by_role("button", name="Search").click()
    for name in ("<img src=x onerror=", "\"onerror='", "\\x1b[31mred\\u202egpj.jpg"):
        expect(page.get_by_role("figure").filter(has_text=name)).to_have_count(1)
    looks(page, "search-hostile", request)


def test_a_name_that_resolves_to_this_machine_is_refused(address: str, browser: Browser) -> None:
    page = browser.new_page()
    answer = page.goto(address.replace("127.0.0.1", "attacker.example"))
    assert answer is not None
    assert answer.status == 400
    assert "holiday" not in page.content()
    page.close()


def test_contact_sheet_and_review_page(
    dataset: Path,
    photos: Path,
    both: TritonServer,
    page: Page,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    sheet, review = tmp_path / "sheet.html", tmp_path / "review.html"
    like = str(photos / "2024-02-holiday.jpg")
    assert main(["query", str(dataset), "--like", like, "--url", both.grpc_url, "--html", str(sheet)]) == 0
    page.goto(sheet.as_uri())
    expect(page.get_by_role("figure")).to_have_count(10)
    looks(page, "contact-sheet", request)
    assert main(["duplicates", str(dataset), "--html", str(review)]) == 0
    page.goto(review.as_uri())
    expect(page.get_by_role("heading", name="Group 3")).to_be_visible()
    looks(page, "duplicates", request)
