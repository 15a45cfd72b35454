// A field for names, completed as one types (tom-select). Python puts the library's code in place of LIBRARIES.
//
// The names come from another component (name_list.js), once. What is chosen goes back as {chosen: [name, …]}.

const LIBRARIES = {};
const SHOWN = 50; // names at a time

const lists = (globalThis.subcellAtlasNames ??= new Map());
const fields = (globalThis.subcellAtlasFields ??= new WeakMap());

function library() {
  if (!globalThis.TomSelect) new Function(LIBRARIES["tom-select"]).call(globalThis);
  return globalThis.TomSelect;
}

function whenThere(mark, fill) {
  const there = lists.get(mark);
  if (there?.names) fill(there.names);
  else if (there) there.waiting.push(fill);
  else lists.set(mark, { waiting: [fill] });
}

class Field {
  constructor(root, data) {
    const input = root.appendChild(document.createElement("input"));
    this.field = new (library())(input, {
      create: true, persist: false, maxItems: data.single ? 1 : null, maxOptions: SHOWN, selectOnTab: true,
      closeAfterSelect: true, hidePlaceholder: true, placeholder: data.placeholder, splitOn: /[\s,;]+/, refreshThrottle: 0,
      plugins: data.single ? [] : { remove_button: { title: "Leave it out" } },
      sortField: [{ field: "$score" }, { field: "$order" }],
      render: {
        option_create: (typed, escape) => `<div class="create">Ask for <b>${escape(typed.input)}</b></div>`,
        no_results: null,
      },
      onChange: () => this.tell(),
    });
    const typed = this.field.control_input;
    typed.setAttribute("aria-label", data.label);
    typed.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Tab") return;
      if (!this.field.refreshTimeout) return;
      clearTimeout(this.field.refreshTimeout); // what is listed is what was typed, however fast
      this.field.refreshTimeout = null;
      this.field.refreshOptions();
    }, { capture: true });
  }

  // Several names that are pasted are told at once.
  tell() {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.say([...this.field.items]), 0);
  }

  show(data) {
    if (data.list !== this.list) {
      this.list = data.list;
      whenThere(data.list, (names) => {
        if (this.list !== data.list) return;
        this.field.addOptions(names.map((name) => ({ value: name, text: name })));
      });
    }
    if (data.chosen.join("\n") === this.field.items.join("\n")) return;
    this.field.clear(true); // forgets names that were typed
    for (const name of data.chosen) if (!this.field.options[name]) this.field.addOption({ value: name, text: name });
    this.field.setValue(data.chosen, true);
  }

  destroy() {
    clearTimeout(this.telling);
    this.field.destroy();
  }
}

export default function ({ parentElement, data, setTriggerValue }) {
  const root = parentElement.querySelector(".names");
  let field = fields.get(root);
  if (!field) {
    field = new Field(root, data);
    fields.set(root, field);
  }
  field.say = (chosen) => setTriggerValue("chosen", chosen);
  field.show(data);
  return () => {
    field.destroy();
    fields.delete(root);
  };
}
