// The ways in which an image comes: chosen, photographed, pasted or dropped anywhere on the page.

import { Failure } from "./failure.js";

// `choose` gets each file, `refuse` a Failure for what is none.
export function watchInputs(choose, refuse) {
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      if (input.files[0]) choose(input.files[0]);
      // the same file can be chosen again
      input.value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const file = fileOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    choose(file);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    dragged(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) dragged(false);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragged(false);
    const file = fileOf(event.dataTransfer);
    if (file) choose(file);
    else refuse(new Failure("Drop an image file, not a link or text."));
  });
}

function fileOf(transfer) {
  return [...transfer.files].find((file) => file.type.startsWith("image/")) ?? transfer.files[0];
}

function dragged(on) {
  document.body.classList.toggle("dragged", on);
}
