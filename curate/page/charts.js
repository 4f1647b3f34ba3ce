"use strict";
// Draws each chart when it comes into view, in the colours of the page, light or dark; marks the
// section that is read in the navigation.
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const drawn = new Map();
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const coloured = (value) => {
    if (typeof value === "string") {
      const named = /^var\((--[a-z-]+)\)$/.exec(value);
      return named ? colour(named[1]) : value;
    }
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one)]));
  };
  // Data is never looked through for colours: it is the strangers'.
  const dressed = (spec) => {
    const {datasets, ...rest} = spec;
    return datasets === undefined ? coloured(rest) : {...coloured(rest), datasets};
  };
  const config = () => {
    const text = {
      labelColor: colour("--soft"), titleColor: colour("--soft"), labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: "normal", labelLimit: 160,
    };
    return {
      background: null,
      font: "system-ui, sans-serif",
      view: {stroke: null},
      axis: {...text, gridColor: colour("--line"), domainColor: colour("--soft"), tickColor: colour("--soft")},
      legend: {...text, orient: "top"},
      header: text,
      text: {color: colour("--ink"), fontSize: 12},
      rule: {color: colour("--ink")},
      line: {color: colour("--kept")},
      bar: {color: colour("--kept")},
      point: {color: colour("--kept")},
    };
  };
  const drawOne = async (place) => {
    const spec = dressed(specs[Number(place.dataset.chart)]);
    const made = await vegaEmbed(place, spec, {
      actions: false, ast: true, renderer: "svg", config: config(), tooltip: {theme: "custom"},
    });
    drawn.set(place, made);
    place.dataset.drawn = "yes";
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      drawOne(entry.target);
    }
  }, {rootMargin: "400px"});
  places.forEach((place) => seen.observe(place));
  const all = () => Promise.all(places.filter((place) => !drawn.has(place)).map(drawOne));
  const again = () => {
    for (const [place, made] of drawn) {
      made.finalize();
      drawOne(place);
    }
  };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  window.addEventListener("beforeprint", all);

  const links = [...document.querySelectorAll("nav a")];
  const mark = (section) => {
    for (const link of links) {
      const here = link.hash === `#${section.id}`;
      if (!here) link.removeAttribute("aria-current");
      else {
        link.setAttribute("aria-current", "true");
        link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 3;
      }
    }
  };
  const read = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) mark(entry.target);
  }, {rootMargin: "-20% 0px -75% 0px"});
  document.querySelectorAll("main > section[id]").forEach((section) => read.observe(section));
})();
