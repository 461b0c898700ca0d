// The line above the slice that says what went wrong, or what can be done.

import { $ } from "./panel.js";

export function tell(text, action = "", act = null, kind = "once") {
  const notice = $("notice");
  const [button, close] = notice.querySelectorAll("button");
  notice.querySelector("span").textContent = text;
  Object.assign(button, { textContent: action, hidden: !action, onclick: () => ((notice.hidden = true), act?.()) });
  close.onclick = () => (notice.hidden = true);
  notice.dataset.kind = kind;
  notice.hidden = false;
}

export function untell(kind) {
  if ($("notice").dataset.kind === kind) $("notice").hidden = true;
}
