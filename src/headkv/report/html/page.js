// Tabs, and the choice of benchmark and model.

// --- tabs and groups; the sections have other ids than the addresses, or the page would jump

const tabs = [...document.querySelectorAll("[data-tab]")];

function openTab(name) {
  for (const tab of tabs) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(`part-${tab.dataset.tab}`).hidden = !chosen;
  }
  document.dispatchEvent(new CustomEvent("tabchange", { detail: name }));
}

/** Opens a tab, and has the address name it. */
function goToTab(name) {
  history.replaceState(null, "", `#${name}`);
  openTab(name);
}

/** The tab or the run that the address names. */
function followAddress() {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = name.startsWith("run-") ? $(name) : null;
  if (target) {
    $("group").value = target.parentElement.dataset.group;
    showGroup();
    openTab("runs");
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus();
  } else if (name !== "main" || !tabs.some((tab) => tab.tabIndex === 0)) {
    openTab(tabs.some((tab) => tab.dataset.tab === name) ? name : "results");
  }
}

function setUpTabs() {
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => goToTab(tab.dataset.tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  });
  addEventListener("hashchange", followAddress);
}

const group = () => $("group").value;

function showGroup() {
  for (const part of document.querySelectorAll("[data-group]")) part.hidden = part.dataset.group !== group();
  document.dispatchEvent(new Event("groupchange"));
}

addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".sortable").forEach(setUpTable);
  setUpTheme();
  setUpTabs();
  $("group").addEventListener("change", showGroup);
  showGroup();
  followAddress();
});
