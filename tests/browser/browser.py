"""Chromium as tests use it: open a page at a width and in a colour scheme, press keys, read what is shown."""

import time

# Of every text that can be seen: its contrast with the surface that it stands on, by WCAG 2; those below AA.
LOW_CONTRAST = """
const number = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const surface = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = number(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
  if (!text || !element.checkVisibility() || element.disabled || element.closest("script, svg")) continue;
  const style = getComputedStyle(element);
  const [a, b] = [light(number(style.color)), light(surface(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) low.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
}
return low;
"""
UNSIZED = "return document.querySelectorAll('body > :not(dialog) img:not([width][height])').length"
PAINTED = "return performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0] || null"


class Browser:
    """One window of Chromium; `close` ends it."""

    def __init__(self, chromium, driver, profile):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (
            *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
            *("disable-background-networking", "disable-component-update", "disable-sync", f"user-data-dir={profile}"),
        ):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def close(self):
        self.driver.quit()

    def open(self, page, width=1400, scheme="light", script=True):
        """Show the file `page`; what the console said before is forgotten."""
        send = self.driver.execute_cdp_cmd
        send("Emulation.setScriptExecutionDisabled", {"value": not script})
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        send("Emulation.setDeviceMetricsOverride", size)
        send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.errors()
        self.driver.get(page.as_uri())

    def errors(self):
        """What the console said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def ask(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def press(self, *keys):
        """Keys as a person presses them, where the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def choose(self, tool, value):
        """A value in one of the menus of the list."""
        from selenium.webdriver.support.select import Select

        Select(self.find(f"[data-tool={tool}]")).select_by_value(value)

    def painted_ms(self):
        """Milliseconds from the start of loading to the first paint of content."""
        for _ in range(100):
            if (painted := self.ask(PAINTED)) is not None:
                return painted
            time.sleep(0.05)
        raise AssertionError("nothing was painted within 5 s")
