// Asks for the names of the structures of a data set that nobody has named yet.

import * as api from "./api.js";
import { $ } from "./panel.js";

export function name(begin) {
  const dialog = $("naming");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      await api.nameStructures($("names").value.split("\n").map((line) => line.trim()).filter(Boolean));
      dialog.close();
      await begin();
    } catch (error) {
      $("naming-problem").textContent = error.message;
    }
  };
  dialog.showModal();
  document.body.dataset.ready = "naming";
}
