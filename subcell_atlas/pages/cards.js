// Cards of pictures. A click on a name goes back as {clicked: name}.

function element(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

function draw(card, tip, say) {
  const item = document.createElement("li");
  if (card.name) {
    const head = item.appendChild(element("div", "head", ""));
    head.append(element("span", "before", card.before));
    const button = head.appendChild(element("button", "name", card.name));
    Object.assign(button, { type: "button", title: tip, onclick: () => say(card.name) });
    head.append(element("span", "after", card.after));
  }
  if (card.picture) {
    const picture = item.appendChild(document.createElement("img"));
    Object.assign(picture, { alt: card.alt, src: `data:image/jpeg;base64,${card.picture}` });
  }
  if (card.text) item.append(element("div", "text", card.text));
  return item;
}

export default function ({ parentElement, data, setTriggerValue }) {
  const list = parentElement.querySelector(".cards");
  list.classList.toggle("named", data.cards.some((card) => card.name));
  list.style.gridTemplateColumns = `repeat(auto-fill, minmax(min(${data.min_width}px, 100%), 1fr))`;
  const say = (name) => setTriggerValue("clicked", name);
  list.replaceChildren(...data.cards.map((card) => draw(card, data.tip, say)));
}
