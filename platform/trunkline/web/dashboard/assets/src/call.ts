// The page of one call: the recording, and the transcript that follows it.
import { enhance } from "./lib/enhance";

function seek(seconds: number): boolean {
  const audio = document.querySelector("audio");
  if (!audio) return false;
  audio.currentTime = seconds;
  audio.play().catch(() => {}); // a browser may want a click first; the place is set all the same
  const url = new URL(location.href);
  url.searchParams.set("t", String(Number(seconds.toFixed(1))));
  url.hash = "";
  history.replaceState(null, "", url);
  return true;
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || !(event.target instanceof Element)) return;
  const link = event.target.closest<HTMLElement>("[data-seek]");
  if (link && seek(Number(link.dataset["seek"]))) {
    event.preventDefault();
    return;
  }
  const wave = event.target.closest("[data-wave]");
  const audio = document.querySelector("audio");
  if (wave && audio?.duration) {
    const box = wave.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * audio.duration);
  }
});

enhance(() => {
  const audio = document.querySelector("audio");
  if (!audio || audio.dataset["followed"] !== undefined) return;
  audio.dataset["followed"] = "";
  const head = document.querySelector("[data-head]");
  const lines = [...document.querySelectorAll<HTMLElement>("[data-from]")];
  audio.addEventListener("timeupdate", () => {
    const now = audio.currentTime;
    if (audio.duration) head?.setAttribute("x", String((1000 * now) / audio.duration));
    for (const line of lines) {
      const spoken = now > 0 && now >= Number(line.dataset["from"]) && now < Number(line.dataset["to"]);
      if (spoken === line.classList.contains("spoken")) continue;
      line.classList.toggle("spoken", spoken);
      if (spoken) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
  });
});
