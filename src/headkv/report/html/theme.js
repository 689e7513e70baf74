// The choice of a light or a dark page, kept by the browser.

function setUpTheme() {
  const select = $("theme");
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
    document.dispatchEvent(new Event("themechange"));
  };
  try {
    select.value = localStorage.getItem("headkv-theme") ?? "";
  } catch {
    // Some browsers give files no storage; the choice then lasts as long as the page.
  }
  select.addEventListener("change", () => {
    apply();
    try {
      localStorage.setItem("headkv-theme", select.value);
    } catch {
      // as above
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}

