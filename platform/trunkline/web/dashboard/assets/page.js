// Comfort only: the pages are complete without this file.

const zone = { timeZoneName: "short" };
const clock = { hour: "2-digit", minute: "2-digit" };
const styles = {
  short: { day: "numeric", month: "short", ...clock },
  full: { day: "numeric", month: "short", year: "numeric", ...clock, second: "2-digit", ...zone },
};

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[data-style]")) {
    const at = new Date(time.dateTime);
    const style = styles[time.dataset.style];
    const otherYear = at.getFullYear() !== new Date().getFullYear();
    time.textContent = at.toLocaleString(undefined, otherYear ? { ...style, year: "numeric" } : style);
    time.title = `${at.toLocaleString(undefined, styles.full)} (${time.title})`;
  }
}

function seek(seconds) {
  const audio = document.querySelector("audio");
  if (!audio) return false;
  audio.currentTime = seconds;
  audio.play().catch(() => {}); // a browser may want a click first; the place is set all the same
  const url = new URL(location.href);
  url.searchParams.set("t", Number(seconds.toFixed(1)));
  url.hash = "";
  history.replaceState(null, "", url);
  return true;
}

document.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  const link = event.target.closest("[data-seek]");
  if (link && seek(Number(link.dataset.seek))) {
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

function followAudio() {
  const audio = document.querySelector("audio");
  if (!audio) return;
  const head = document.querySelector("[data-head]");
  const lines = [...document.querySelectorAll("[data-from]")];
  audio.addEventListener("timeupdate", () => {
    const now = audio.currentTime;
    if (audio.duration) head?.setAttribute("x", (1000 * now) / audio.duration);
    for (const line of lines) {
      const spoken = now > 0 && now >= Number(line.dataset.from) && now < Number(line.dataset.to);
      if (spoken !== line.classList.contains("spoken")) {
        line.classList.toggle("spoken", spoken);
        if (spoken) line.setAttribute("aria-current", "true");
        else line.removeAttribute("aria-current");
      }
    }
  });
}

// A page with a call in progress fetches itself anew and takes over what has changed.
async function renew() {
  const main = document.querySelector("main");
  const every = Number(main.dataset.renew);
  if (!every) return;
  try {
    if (!document.hidden) {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(10_000) });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = fresh.querySelector("main");
      if (answer.ok && next) {
        showLocalTimes(next);
        take(main, next, fresh.title);
      }
    }
  } catch {
    // The server may be restarting; the next round asks again.
  }
  setTimeout(renew, 1000 * every);
}

function take(main, next, title) {
  if (main.innerHTML !== next.innerHTML) {
    const focused = main.contains(document.activeElement) && document.activeElement;
    const href = focused && focused.getAttribute("href");
    const open = [...main.querySelectorAll("li:has(details[open])")].map((item) => item.id);
    main.innerHTML = next.innerHTML;
    for (const id of open) document.getElementById(id)?.querySelector("details")?.setAttribute("open", "");
    if (href) main.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
    document.title = title;
    followAudio();
  }
  if (next.dataset.renew) main.dataset.renew = next.dataset.renew;
  else delete main.dataset.renew;
}

showLocalTimes(document);
followAudio();
setTimeout(renew, 1000 * Number(document.querySelector("main").dataset.renew || 0));
