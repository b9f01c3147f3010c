// Times in the viewer's zone; the exact one, and UTC, on hover.

/** The page's language, as the viewer's browser writes it: en-GB for a page in English, if they read that. */
const page = document.documentElement.lang;
const locale = navigator.languages.find((one) => one.split("-")[0] === page.split("-")[0]) ?? page;

const clock = { hour: "2-digit", minute: "2-digit" } as const;
const day = { day: "numeric", month: "short" } as const;
const styles: Record<string, Intl.DateTimeFormatOptions> = {
  short: { ...day, ...clock },
  full: { ...day, year: "numeric", ...clock, second: "2-digit", timeZoneName: "short" },
  day: { ...day, weekday: "short" },
  time: clock,
};

/** Put each `<time data-style>` into the viewer's zone; once only. */
export function showLocalTimes(root: ParentNode): void {
  for (const time of root.querySelectorAll<HTMLTimeElement>("time[data-style]:not([data-local])")) {
    const at = new Date(time.dateTime);
    const style = styles[time.dataset["style"] ?? ""] ?? styles["short"]!;
    const otherYear = at.getFullYear() !== new Date().getFullYear();
    time.textContent = at.toLocaleString(locale, otherYear ? { ...style, year: "numeric" } : style);
    time.title = `${at.toLocaleString(locale, styles["full"])} (${time.title})`;
    time.dataset["local"] = "";
  }
}
