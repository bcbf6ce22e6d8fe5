/** Tabs, by the pattern of WAI-ARIA: arrows move between them, the address names the one that is shown. */

export const createTabs = (list, onChange) => {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  const address = (tab) => `#/${panel(tab).id}`; // no element's, lest the page scrolls there
  const offered = () => tabs.filter((tab) => !tab.hidden);
  let current = null;

  const show = (tab) => {
    current = tab;
    for (const other of tabs) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
      panel(other).hidden = other !== tab;
    }
  };

  const choose = (tab) => {
    if (tab === current) return;
    show(tab);
    onChange(panel(tab).id);
  };

  list.addEventListener("click", ({ target }) => {
    if (!tabs.includes(target)) return;
    history.replaceState(null, "", address(target));
    choose(target);
  });
  list.addEventListener("keydown", (event) => {
    const all = offered();
    const index = all.indexOf(current);
    const next = { ArrowRight: index + 1, ArrowLeft: index - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const tab = all[next % all.length];
    tab.focus();
    tab.click();
  });

  show(tabs[0]);
  return {
    current: () => panel(current).id,
    /** Offers the tabs for a kind of model, and shows the one that the address names if it is among them. */
    offer: (kind, without = []) => {
      tabs.forEach((tab) => (tab.hidden = !tab.dataset.for.split(" ").includes(kind) || without.includes(panel(tab).id)));
      const all = offered();
      choose(all.find((tab) => location.hash === address(tab)) ?? (all.includes(current) ? current : all[0]));
      list.hidden = all.length < 2;
    },
  };
};
