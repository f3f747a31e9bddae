// Chooses light or dark before anything is drawn: what was chosen here before, else what the system prefers.
(() => {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("sollol-theme");
    } catch {
      return null; // a browser that keeps nothing
    }
  };
  const set = () => {
    const asked = new URLSearchParams(location.search).get("theme");
    document.documentElement.dataset.theme = asked || stored() || (system.matches ? "dark" : "light");
  };
  set();
  system.addEventListener("change", set);
  window.sollolTheme = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("sollol-theme", next);
    } catch {
      // it holds for this page then
    }
    document.documentElement.dataset.theme = next;
  };
})();
