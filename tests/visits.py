"""A page in a real browser, from disk, with the network cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = (1280, 390)  # px: a desk and a phone
MOST_BYTES = 10_000_000
HIT = "window.hit = 1"  # what a stranger's script would do
CAPTIONS = (
    f"<script>{HIT}</script> is a caption",
    f'"\'><img src=x onerror="{HIT}"> is another',
    f"</script><script>{HIT}</script> ends a script",
    f"javascript:{HIT}",
    f"<svg onload='{HIT}'> {{{{ 7 * 7 }}}} var(--kept)",
)


@dataclass
class Visit:
    """A page that is open, and all that went wrong with it."""

    page: Page
    asked: list[str] = field(default_factory=list)  # URLs
    wrong: list[str] = field(default_factory=list)  # errors, warnings, broken rules of the policy

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements, blanks made one."""
        found = self.page.locator(selector).all_text_contents()
        return [" ".join(text.split()) for text in found]

    def text(self) -> str:
        return " ".join(self.page.locator("body").inner_text().split())

    def draw_all(self) -> None:
        """Draw the charts that are not in view yet, as printing does."""
        self.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        drawn = "[...document.querySelectorAll('[data-chart]')].every(e => e.querySelector('svg'))"
        self.page.wait_for_function(drawn)

    def overflow(self) -> int:
        """Pixels by which something sticks out sideways."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )


@contextmanager
def visit(browser: Browser, file: Path) -> Iterator[Visit]:
    """Open a file with the network cut; whatever it asks for is noted, and refused."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    found = Visit(page)
    page.on("request", lambda request: found.asked.append(request.url))
    page.on("pageerror", lambda error: found.wrong.append(str(error)))
    page.on("console", lambda said: found.wrong.append(f"{said.type}: {said.text}"))
    page.route("**/*", lambda route: route.continue_() if _own(route, file) else route.abort())
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation',"
        " (found) => console.error(`policy: ${found.violatedDirective} ${found.blockedURI}`))"
    )
    page.goto(file.as_uri())
    yield found
    context.close()


def _own(route, file: Path) -> bool:
    return route.request.url == file.as_uri() or route.request.url.startswith("data:")


def is_well(found: Visit, file: Path) -> None:
    """Nothing went wrong, nothing was fetched, nothing ran or sticks out, light or dark."""
    found.draw_all()
    for scheme in ("light", "dark"):
        found.page.emulate_media(color_scheme=scheme)
        for width in WIDTHS:
            found.page.set_viewport_size({"width": width, "height": 900})
            assert found.overflow() == 0, (scheme, width)
    found.draw_all()
    assert found.wrong == []
    assert [url for url in found.asked if not url.startswith("data:")] == [file.as_uri()]
    assert found.page.evaluate("window.hit") is None
    assert file.stat().st_size < MOST_BYTES
