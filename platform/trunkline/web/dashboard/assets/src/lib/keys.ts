// Single keys: each can be turned off, none is taken from a field that is being written in
// (WCAG 2.1.4). What a key does is a link or button with data-key, or is given with onKey.

type Handler = (event: KeyboardEvent) => void;

const handlers = new Map<string, Handler>();

/** Let *key* (as KeyboardEvent.key has it) do something on this page. */
export function onKey(key: string, handler: Handler): void {
  handlers.set(key, handler);
}

function on(): boolean {
  try {
    return localStorage.getItem("keys") !== "off";
  } catch {
    return true;
  }
}

function taken(event: KeyboardEvent): boolean {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return true;
  const target = event.target;
  if (!(target instanceof Element)) return false;
  if (target.closest("input:not([type=checkbox]), textarea, select, [contenteditable], dialog, audio")) return true;
  // Space and Enter belong to what has the focus.
  return event.key === " " && target.closest("a, button, summary, input, label") !== null;
}

export function listenToKeys(): void {
  const dialog = document.querySelector<HTMLDialogElement>("#keys");
  const opener = document.querySelector<HTMLElement>("[data-keys-open]");
  const box = dialog?.querySelector<HTMLInputElement>("[data-keys-on]");
  if (!dialog || !box) return;
  const open = (): void => {
    box.checked = on();
    dialog.showModal();
  };
  box.addEventListener("change", () => {
    try {
      if (box.checked) localStorage.removeItem("keys");
      else localStorage.setItem("keys", "off");
    } catch {
      // Only asked for again, then.
    }
  });
  if (opener) {
    opener.hidden = false;
    opener.addEventListener("click", open);
  }
  onKey("?", open);
  document.addEventListener("keydown", (event) => {
    if (!on() || taken(event)) return;
    const handler = handlers.get(event.key);
    const target = handler ? null : document.querySelector<HTMLElement>(`[data-key="${CSS.escape(event.key)}"]`);
    if (!handler && !target) return;
    event.preventDefault();
    if (handler) handler(event);
    else target?.click();
  });
}
