// The list of calls: keys to go through it, and the viewer's zone for the days of the filters.
import { enhance } from "./lib/enhance";
import { onKey } from "./lib/keys";

const links = (): HTMLElement[] => [...document.querySelectorAll<HTMLElement>("[data-call] .caller > a:first-child")];

/** The call that has the focus, or whose row holds it; -1 for none. */
function at(all: HTMLElement[]): number {
  const row = document.activeElement?.closest("[data-call]");
  return row ? all.findIndex((link) => row.contains(link)) : -1;
}

function move(by: number): void {
  const all = links();
  const to = all[Math.max(0, Math.min(all.length - 1, at(all) + by))];
  to?.focus();
  to?.scrollIntoView({ block: "nearest" });
}

onKey("j", () => move(1));
onKey("k", () => move(-1));
onKey("o", () => links()[at(links())]?.click());
onKey("e", () => {
  const row = document.activeElement?.closest("[data-call]");
  row?.querySelector<HTMLFormElement>("form[data-review]")?.requestSubmit();
});
onKey("/", () => document.querySelector<HTMLInputElement>("#q")?.focus());

enhance((root) => {
  for (const field of root.querySelectorAll<HTMLInputElement>("[data-timezone]"))
    field.value ||= Intl.DateTimeFormat().resolvedOptions().timeZone;
});

// An address holds what is asked for, not the fields that were left empty.
document.querySelector<HTMLFormElement>(".finder")?.addEventListener("submit", (event) => {
  const form = event.currentTarget as HTMLFormElement;
  const dated = ["from", "to"].some((name) => form.querySelector<HTMLInputElement>(`[name=${name}]`)?.value);
  for (const field of form.querySelectorAll<HTMLInputElement | HTMLSelectElement>("input[name], select[name]"))
    if (!field.value || (field.name === "timezone" && !dated)) field.disabled = true;
  const picks = [...form.querySelectorAll<HTMLInputElement>("[name=columns]")];
  if (picks.every((pick) => pick.checked === pick.defaultChecked)) {
    form.querySelector<HTMLInputElement>("[name=keep]")!.disabled = true;
    if (!location.search.includes("columns=")) for (const pick of picks) pick.disabled = true;
  }
});
addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll<HTMLInputElement>(".finder :disabled")) field.disabled = false;
});
