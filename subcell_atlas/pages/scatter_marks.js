// Tells the plot of a name (scatter.js) which of its points to mark; a plot that is not there yet finds it when it comes.

const plots = (globalThis.subcellAtlasPlots ??= new Map());

export default function ({ data }) {
  const plot = plots.get(data.plot);
  if (plot?.mark) plot.mark(data);
  else plots.set(data.plot, { marks: data });
}
