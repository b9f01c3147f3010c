// The recording: a waveform from the server's peaks over the page's own <audio>, which alone plays.
// Nothing of the sound is loaded to draw it.
import WaveSurfer from "wavesurfer.js";

/** Louder than this, in percent of full scale, somebody speaks or makes a noise. */
const QUIET = 2;
/** A shorter silence is a breath; skipping it would hurry people who do not hurry. */
const LONG_SILENCE_S = 1.5;
/** What is left of a silence on either side. */
const EDGE_S = 0.3;

export interface Silence {
  from: number;
  to: number;
}

/** The silences in *peaks*, (left, right) pairs in equal steps over *duration* seconds. */
export function silences(peaks: readonly (readonly [number, number])[], duration: number): Silence[] {
  const step = duration / Math.max(1, peaks.length);
  const found: Silence[] = [];
  let from = 0;
  const end = (at: number): void => {
    if (at - from >= LONG_SILENCE_S) found.push({ from: from + EDGE_S, to: at - EDGE_S });
  };
  peaks.forEach(([left, right], index) => {
    if (Math.max(left, right) <= QUIET) return;
    end(index * step);
    from = (index + 1) * step;
  });
  end(duration);
  return found;
}

export class Player {
  readonly audio: HTMLAudioElement;
  private readonly silences: Silence[];
  private skipping = false;

  constructor(section: HTMLElement) {
    this.audio = section.querySelector("audio")!;
    const wave = section.querySelector<HTMLElement>("[data-wave]");
    const peaks = (wave?.dataset["peaks"] ?? "")
      .split(" ")
      .filter(Boolean)
      .map((pair) => pair.split(",").map(Number) as [number, number]);
    const duration = Number(wave?.dataset["duration"] ?? 0);
    this.silences = silences(peaks, duration);
    if (wave && peaks.length && duration) this.draw(wave, peaks, duration);
    this.control(section);
  }

  seek(seconds: number): void {
    this.audio.currentTime = Math.max(0, seconds);
    // A browser may want a click first; the place is set all the same.
    this.audio.play().catch(() => {});
  }

  toggle(): void {
    if (this.audio.paused) this.audio.play().catch(() => {});
    else this.audio.pause();
  }

  private draw(wave: HTMLElement, peaks: [number, number][], duration: number): void {
    const loudest = Math.max(20, ...peaks.flat());
    const surface = document.createElement("div");
    surface.className = "surface";
    surface.setAttribute("aria-hidden", "true");
    wave.prepend(surface);
    const side = (name: string): { waveColor: string; progressColor: string } => {
      const style = getComputedStyle(wave);
      return {
        waveColor: style.getPropertyValue(`--${name}-rest`),
        progressColor: style.getPropertyValue(`--${name}`),
      };
    };
    const channels = (): { waveColor: string; progressColor: string }[] => [side("caller"), side("agent")];
    const surfer = WaveSurfer.create({
      container: surface,
      media: this.audio,
      duration,
      peaks: [peaks.map(([left]) => left / loudest), peaks.map(([, right]) => right / loudest)],
      splitChannels: channels(),
      height: 44,
      barWidth: 2,
      barGap: 1,
      barRadius: 2,
      barMinHeight: 1,
      cursorWidth: 2,
      cursorColor: getComputedStyle(wave).color,
      // The document's own: a part that came later was made with another.
      cspNonce: document.querySelector<HTMLMetaElement>("meta[name=style-nonce]")?.content ?? "",
      dragToSeek: true,
    });
    wave.classList.add("drawn");
    // The colours are the theme's: registered properties compute to what a canvas understands.
    const repaint = (): void => surfer.setOptions({ splitChannels: channels(), cursorColor: getComputedStyle(wave).color });
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  }

  private control(section: HTMLElement): void {
    const deck = section.querySelector<HTMLElement>("[data-deck]");
    const play = deck?.querySelector<HTMLButtonElement>("[data-play]");
    const now = deck?.querySelector<HTMLElement>("[data-now]");
    const speed = deck?.querySelector<HTMLSelectElement>("[data-speed]");
    const skip = deck?.querySelector<HTMLInputElement>("[data-skip]");
    if (!deck || !play || !now || !speed || !skip) return;
    play.addEventListener("click", () => this.toggle());
    speed.addEventListener("change", () => {
      this.audio.playbackRate = Number(speed.value);
    });
    skip.addEventListener("change", () => {
      this.skipping = skip.checked;
    });
    const shown = (): void => {
      play.setAttribute("aria-pressed", String(!this.audio.paused));
      now.textContent = clock(this.audio.currentTime);
    };
    for (const name of ["play", "pause", "ended", "seeked", "loadedmetadata"]) this.audio.addEventListener(name, shown);
    this.audio.addEventListener("timeupdate", () => {
      shown();
      this.skip();
    });
    this.audio.controls = false;
    deck.hidden = false;
    shown();
  }

  private skip(): void {
    if (!this.skipping || this.audio.paused) return;
    const at = this.audio.currentTime;
    const silence = this.silences.find(({ from, to }) => at >= from && at < to - 0.1);
    if (silence) this.audio.currentTime = Math.min(silence.to, this.audio.duration || silence.to);
  }
}

function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const [minutes, rest] = [Math.floor(whole / 60), String(whole % 60).padStart(2, "0")];
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}
