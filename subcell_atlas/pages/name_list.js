// Names for the fields (names.js) that ask for a list of this mark, those that wait for it and those to come.

const lists = (globalThis.subcellAtlasNames ??= new Map());

export default function ({ data }) {
  const there = lists.get(data.mark);
  if (there?.names) return;
  lists.set(data.mark, { names: data.names });
  there?.waiting.forEach((fill) => fill(data.names));
}
