// Sums over the snapshot's series, and quantiles of its histograms; pure.

const SUMS = ["retries", "prompt_tokens", "unreported_prompt_tokens", "completion_tokens", "available_tokens", "routed_tokens",
  "delivered_tokens", "routing_loss_tokens", "index_loss_tokens", "index_gain_tokens"];

// Of series together. `base` are the prompt tokens whose engine said what was cached.
export function total(series) {
  const sum = Object.fromEntries(SUMS.map(name => [name, 0]));
  Object.assign(sum, {requests: 0, failed: 0, refused: 0});
  for (const one of series) {
    for (const name of SUMS) sum[name] += one[name];
    for (const [outcome, count] of Object.entries(one.outcomes)) {
      sum.requests += count;
      if (outcome === "engine_failed" || outcome === "timed_out") sum.failed += count;
      if (outcome === "rejected") sum.refused += count;
    }
  }
  sum.base = sum.prompt_tokens - sum.unreported_prompt_tokens;
  const counts = together(series, "ttft_seconds");
  sum.first_tokens = counts.counts.reduce((a, b) => a + b, 0);
  for (const [name, share] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]]) sum[`ttft_${name}_s`] = quantile(counts, share);
  return sum;
}

// The same of a slice or total of the history.
export const ofHistory = one => ({...one, base: one.prompt_tokens, routing_loss_tokens: one.available_tokens - one.routed_tokens});

export const rate = (tokens, base) => base ? tokens / base : null;

function together(series, name) {
  const histograms = series.map(one => one.histograms[name]);
  if (!histograms.length) return {bounds: [], counts: []};
  const counts = histograms[0].counts.map((_, index) => histograms.reduce((sum, one) => sum + one.counts[index], 0));
  return {bounds: histograms[0].bounds, counts};
}

// The quantile of a histogram, each bucket's values taken as spread evenly; null of nothing.
export function quantile({bounds, counts}, share) {
  const wanted = share * counts.reduce((a, b) => a + b, 0);
  if (!wanted) return null;
  let below = 0, low = 0;
  for (let index = 0; index < bounds.length; index += 1) {
    if (counts[index] && below + counts[index] >= wanted) return low + (bounds[index] - low) * (wanted - below) / counts[index];
    below += counts[index];
    low = bounds[index];
  }
  return bounds.at(-1);
}
