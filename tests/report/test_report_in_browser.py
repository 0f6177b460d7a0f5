"""The page in headless Chromium: it loads without a complaint, sorts, switches, fits, and no request leaves it."""

import base64
import json
import shutil
from itertools import pairwise

import made_up_study
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SWITCHES = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync"
)
LOGS = {"performance": "ALL", "browser": "ALL"}
A4 = 703  # CSS pixels between the margins


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for switch in SWITCHES.split():
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", LOGS)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, built):
    """The page of the made-up study, just loaded, as a bright desktop shows it."""
    show(browser)
    browser.get("about:blank")
    for log in LOGS:
        browser.get_log(log)
    browser.get((built / "report/made-up.html").as_uri())
    return browser


def show(browser, width=1280, media="screen", scheme="light"):
    """Have the page believe in a window, a medium and a colour scheme."""
    window = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    wanted = [{"name": name, "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": wanted})


def requests(browser):
    """Addresses of all that was asked for, but for what the browser's own first page has of its own."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [one["request"]["url"] for one in asked if not one["documentURL"].startswith("chrome:")]


def table(page, caption):
    (found,) = [one for one in page.find_elements(By.TAG_NAME, "table") if caption in one.text.split("\n")[0]]
    return found


def heading(found, words):
    return next(one for one in found.find_elements(By.CSS_SELECTOR, "thead th button") if one.text.startswith(words))


def column(page, found, place):
    """The numbers of a column from top to bottom, None where one is missing; or the text where there is none."""
    script = "return [...arguments[0].tBodies[0].rows].map(r => r.cells[arguments[1]])"
    cells = page.execute_script(f"{script}.map(c => [c.dataset.value, c.textContent])", found, place)
    return [float(value) if value is not None else None if text == "–" else text for value, text in cells]


def test_it_loads_without_a_complaint_and_asks_for_nothing(page, built):
    asked = requests(page)
    assert asked[0] == (built / "report/made-up.html").as_uri()
    assert not [url for url in asked[1:] if not url.startswith("data:")]
    assert page.get_log("browser") == []
    assert page.execute_script("return [...document.images].every(image => image.naturalWidth > 0)")
    assert page.execute_script("return document.images.length") == 1


def test_the_policy_would_stop_what_asks_elsewhere(page):
    page.execute_script("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.execute_script("document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 1'}))")
    assert page.execute_script("return typeof hacked") == "undefined"
    (image, script) = [entry["message"] for entry in page.get_log("browser")]
    assert "Content Security Policy" in image
    assert "Content Security Policy" in script


def test_labels_do_nothing(page):
    assert page.execute_script("return typeof hacked") == "undefined"
    assert made_up_study.HOSTILE in table(page, "recall of every experiment").text
    options = [option.text for option in Select(page.find_element(By.NAME, "left")).options]
    assert options == ["ground truth", "CE", made_up_study.HOSTILE]


def test_numbers_sort_as_numbers_with_a_click(page):
    found = table(page, "each training took")
    button = heading(found, "time")
    before = column(page, found, 2)
    button.click()
    assert column(page, found, 2) == sorted(before, reverse=True)
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    button.click()
    assert column(page, found, 2) == sorted(before)
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    heading(found, "memory").click()
    assert len(found.find_elements(By.CSS_SELECTOR, "[aria-sort]")) == 1
    texts = [f"{value:,.1f}" for value in before]
    assert sorted(texts) != [f"{value:,.1f}" for value in sorted(before)], "as text they would stand in another order"


def test_what_is_missing_stays_last(page):
    found = table(page, "by class")
    assert None in column(page, found, 3)
    for _ in range(2):
        heading(found, "tri & angle").click()
        values = column(page, found, 3)
        assert values[-1] is None
        assert None not in values[:-1]


def test_rows_stay_together_when_they_move(page):
    found = table(page, "recall of every experiment")
    rows = {row.text for row in found.find_elements(By.CSS_SELECTOR, "tbody tr")}
    heading(found, "AP50").click()
    assert {row.text for row in found.find_elements(By.CSS_SELECTOR, "tbody tr")} == rows


def test_words_sort_by_the_keyboard(page):
    found = table(page, "recall of every experiment")
    button = heading(found, "experiment")
    before = column(page, found, 0)
    button.send_keys(Keys.ENTER)
    assert column(page, found, 0) == sorted(before, key=str.lower) != before
    button.send_keys(Keys.SPACE)
    assert column(page, found, 0) == sorted(before, key=str.lower, reverse=True)
    assert page.switch_to.active_element == button
    page.execute_script("arguments[0].blur()", button)
    button.send_keys(Keys.TAB, Keys.SHIFT + Keys.TAB)
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "who uses the keyboard sees where they are"


def boxes(page, side):
    """The number of boxes in the panels of one side, and their descriptions."""
    panels = page.find_elements(By.CSS_SELECTOR, f"#panels > div > figure:nth-child({1 + side}) svg")
    return [len(panel.find_elements(By.TAG_NAME, "rect")) for panel in panels], [
        panel.get_attribute("aria-label") for panel in panels
    ]


def test_methods_switch(page):
    counts, words = boxes(page, 0)
    assert counts == [2, 2]
    assert words[0] == "image 3, ground truth: disc, <i>square</i>"
    assert boxes(page, 1)[0] == [3, 3]
    Select(page.find_element(By.NAME, "right")).select_by_visible_text("ground truth")
    Select(page.find_element(By.NAME, "left")).select_by_index(2)
    assert boxes(page, 1) == (counts, words)
    assert boxes(page, 0)[1][0] == f"image 3, {made_up_study.HOSTILE}: disc, disc, disc"


def test_the_score_leaves_boxes_out(page):
    slider = page.find_element(By.NAME, "score")
    for score, left in ((0.3, 3), (0.5, 2), (0.7, 1), (0.95, 0)):
        move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        page.execute_script(move, slider, score)
        assert boxes(page, 1)[0] == [left, left]
        assert boxes(page, 0)[0] == [2, 2], "the ground truth has no scores"
        assert page.find_element(By.TAG_NAME, "output").text == f"{score:.2f}"


def test_a_source_is_found_and_marked(page):
    link = table(page, "recall of every experiment").find_element(By.LINK_TEXT, "seed 2")
    link.click()
    row = page.find_element(By.CSS_SELECTOR, "tr:target")
    assert "results/made-up/ce/seed-2/evaluation.json" in row.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("width", "media"),
    [(320, "screen"), (360, "screen"), (390, "screen"), (768, "screen"), (1280, "screen"), (A4, "print")],
)
def test_nothing_is_wider_than_the_page(page, width, media, scheme):
    show(page, width, media, scheme)
    page.execute_script("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    if media == "print":  # where no box can scroll
        assert page.execute_script(
            "return [...document.querySelectorAll('.wide')].every(b => b.scrollWidth <= innerWidth)"
        )


LUMINANCE = """
const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = (rgb) => 0.2126 * part(rgb[0]) + 0.7152 * part(rgb[1]) + 0.0722 * part(rgb[2]);
const behind = (e) => { while (/, 0\\)$/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement; return e; };
const tags = "p, dt, dd, small, a, th, td, summary, figcaption, code, h2, button, select";
return [...document.querySelectorAll(tags)].map((e) => {
  const colours = [getComputedStyle(e).color, getComputedStyle(behind(e)).backgroundColor];
  const [a, b] = colours.map((c) => light(c.match(/[\\d.]+/g).map(Number))).sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)];
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(page, scheme):
    show(page, scheme=scheme)
    contrasts = page.execute_script(LUMINANCE)
    assert len(contrasts) > 100
    assert not [words for contrast, words in contrasts if contrast < 4.5]  # level AA of WCAG 2
    paper = page.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(paper) < 60) == (scheme == "dark")
    figure = page.find_element(By.CSS_SELECTOR, ".figure img").value_of_css_property("background-color")
    assert figure == "rgba(255, 255, 255, 1)"


def test_paper_shows_all_and_nothing_to_click(page):
    assert page.execute_script("return document.querySelectorAll('details:not([open])').length") > 0
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    show(page, A4, "print")
    for hidden in ("nav", "#choose", ".download"):
        assert not page.find_element(By.CSS_SELECTOR, hidden).is_displayed()
    for shown in ("#sources table", "#study details dl", "#panels svg", "figcaption"):
        assert page.find_element(By.CSS_SELECTOR, shown).is_displayed()
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.execute_script("return document.querySelectorAll('details[open]').length") == 0
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")


def test_headings_lead_through_the_page(page):
    levels = [
        int(tag[1])
        for tag in page.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    unnamed = "return [...document.querySelectorAll('select, input')].filter(e => !e.labels.length).length"
    assert page.execute_script(unnamed) == 0
