#include "kernels/pair_pattern.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace fovea {

PairTerm PairTerm::all(bool causal) {
  PairTerm t;
  t.causal = causal;
  return t;
}

PairTerm PairTerm::partition(std::vector<int32_t> labels, bool causal) { return PairTerm::labels(std::move(labels), {}, 0, 0, causal); }

PairTerm PairTerm::labels(std::vector<int32_t> query_labels, std::vector<int32_t> key_labels, int32_t low, int32_t high,
                          bool causal) {
  PairTerm t;
  t.kind = Kind::kLabels;
  t.query_labels = std::move(query_labels);
  t.key_labels = std::move(key_labels);
  t.low = low;
  t.high = high;
  t.causal = causal;
  return t;
}

PairTerm PairTerm::band_of(int32_t band, int32_t dilation, bool causal) {
  PairTerm t;
  t.kind = Kind::kBand;
  t.band = band;
  t.dilation = dilation;
  t.causal = causal;
  return t;
}

PairTerm PairTerm::band_on_map(int32_t band, int32_t dilation, int32_t map_width, int32_t first_row) {
  PairTerm t = band_of(band, dilation);
  t.map_width = map_width;
  t.first_row = first_row;
  return t;
}

PairTerm PairTerm::keys(std::vector<int32_t> labels, bool causal) {
  PairTerm t;
  t.kind = Kind::kKeys;
  t.key_labels = std::move(labels);
  t.causal = causal;
  return t;
}

PairTerm PairTerm::queries(std::vector<int32_t> labels, bool causal) {
  PairTerm t;
  t.kind = Kind::kQueries;
  t.query_labels = std::move(labels);
  t.causal = causal;
  return t;
}

bool PairTerm::contains(int64_t query, int64_t key) const {
  if (causal && key > query) return false;
  const auto near = [&](int64_t a, int64_t b) {
    const int64_t difference = std::abs(a - b);
    return difference <= int64_t{band} * dilation && difference % dilation == 0;
  };
  switch (kind) {
    case Kind::kAll: return true;
    case Kind::kLabels: {
      const int32_t of_query = query_labels[static_cast<size_t>(query)], of_key = labels_of_keys()[static_cast<size_t>(key)];
      return of_query >= 0 && of_key >= 0 && of_key - of_query >= low && of_key - of_query <= high;
    }
    case Kind::kBand: {
      if (map_width == 0) return near(query, key);
      const int64_t q = query - first_row, k = key - first_row;
      return q >= 0 && k >= 0 && near(q / map_width, k / map_width) && near(q % map_width, k % map_width);
    }
    case Kind::kKeys: return key_labels[static_cast<size_t>(key)] >= 0;
    case Kind::kQueries: return query_labels[static_cast<size_t>(query)] >= 0;
  }
  return false;
}

bool PairPattern::contains(int64_t query, int64_t key) const {
  return std::any_of(terms.begin(), terms.end(), [&](const PairTerm& t) { return t.contains(query, key); });
}

std::vector<int32_t> first_rows(int64_t rows, int64_t end) {
  std::vector<int32_t> labels(static_cast<size_t>(rows), -1);
  std::fill_n(labels.begin(), end, 0);
  return labels;
}

}  // namespace fovea
