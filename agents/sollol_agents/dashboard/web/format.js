// Quantities as people read them: three significant digits, always with their unit.

const NARROW = "\u202f";

export function count(value) {
  if (value == null) return "–";
  return Math.round(value).toLocaleString("en").replaceAll(",", NARROW);
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

export function number(value) {
  if (value == null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100 || size === 0) return count(value);
  return value.toFixed(size >= 10 ? 1 : 2);
}

export function seconds(value) {
  if (value == null) return "–";
  if (value === 0) return "0 s";
  if (value < 0.0005) return value < 0 ? "−" + seconds(-value) : "0 ms";
  if (value < 1) return `${value < 0.01 ? (value * 1000).toFixed(1) : Math.round(value * 1000)} ms`;
  if (value < 100) return `${value.toFixed(value < 10 ? 2 : 1).replace(/\.?0+$/, "")} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${(value / 3600).toFixed(1)} h`;
}

// How long something took, or takes: until `now` while it has not ended.
export function between(from, to, now) {
  const start = Date.parse(from ?? "");
  const end = to ? Date.parse(to) : now * 1000;
  return Number.isNaN(start) || Number.isNaN(end) ? null : Math.max(0, (end - start) / 1000);
}

export function signedSeconds(value) {
  return value < 0 ? "−" + seconds(-value) : seconds(value);
}

export function percent(ratio, digits = 0) {
  if (ratio == null) return "–";
  const value = ratio * 100;
  return `${value.toFixed(value > 99 && value < 100 ? Math.max(1, digits) : digits)}${NARROW}%`;
}

export function gib(mib) {
  const value = mib / 1024;
  return value >= 100 ? Math.round(value).toString() : value.toFixed(1);
}

export function bytes(value) {
  if (!value) return "–";
  return value >= 1 << 30 ? `${(value / (1 << 30)).toFixed(1)} GiB` : `${Math.round(value / (1 << 20))} MiB`;
}

export function clock(at) {
  const date = typeof at === "string" ? new Date(at) : new Date(at * 1000);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleTimeString("en-GB");
}

export function when(text) {
  if (!text) return "–";
  const date = new Date(text);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? clock(text) : `${date.toLocaleDateString("en-CA")} ${clock(text)}`;
}

export function words(code) {
  return code.replaceAll("_", " ");
}

export function shortGpu(name) {
  return name.replace(/NVIDIA |GeForce |AMD |Radeon |Graphics/g, "").trim() || name;
}

export const PRIORITIES = [
  [10, "critical"],
  [8, "high"],
  [5, "normal"],
  [2, "low"],
  [1, "batch"],
  [0, "deferred"],
];

export function priorityName(priority) {
  const known = PRIORITIES.find(([value]) => value === Number(priority));
  return known ? `${priority} ${known[1]}` : String(priority);
}
