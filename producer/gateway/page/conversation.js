// The questions and answers on the page, newest first. Whatever users or models wrote is set as text, never as HTML.

const byId = (id) => document.getElementById(id);

export class Entry {
  constructor(question) {
    this.began = performance.now();
    this.article = document.createElement("article");
    // read aloud when it is complete, not word by word
    this.article.setAttribute("aria-busy", "true");
    const asked = this.#add("question");
    asked.textContent = question;
    this.answer = this.#add("answer");
    this.meta = this.#add("meta");
    this.text = "";
    byId("answers").prepend(this.article);
    // on a phone it is below the question
    this.article.scrollIntoView({ block: "nearest" });
  }

  #add(name) {
    const paragraph = document.createElement("p");
    paragraph.className = name;
    this.article.append(paragraph);
    return paragraph;
  }

  append(piece) {
    this.text += piece;
    this.answer.textContent = this.text;
  }

  clear() {
    this.text = "";
    this.answer.textContent = "";
  }

  note(text) {
    this.meta.textContent = text;
  }

  // `how` is empty for an answer that came whole.
  end(how, model) {
    const seconds = ((performance.now() - this.began) / 1000).toFixed(1);
    this.note([how, model, `${seconds} s`].filter(Boolean).join(" · "));
    this.article.setAttribute("aria-busy", "false");
  }
}

export function showError(failure) {
  const place = byId("error");
  place.textContent = failure ? failure.message : "";
  place.hidden = !failure;
}

export function showImage(image) {
  byId("invitation").textContent = "Drop or paste another one to replace it";
  byId("caption").textContent = image.caption;
  byId("thumbnail").hidden = image.url === null;
  if (image.url !== null) byId("thumbnail").src = image.url;
}
