// Who meets whom as a predicate of rows, beside the lists of token groups: so that parts of a union never count a pair
// twice, whatever groups each of them is made of.
#pragma once

#include <cstdint>
#include <vector>

namespace fovea {

// One set of pairs of a query row and a key row. Memory is O(rows).
struct PairTerm {
  enum class Kind : uint8_t {
    kAll,      // every pair
    kLabels,   // key's label - query's label in [low, high]; a row labelled -1 is in no pair
    kBand,     // |query - key| <= band * dilation, and dilation divides the difference; on both axes of a map
    kKeys,     // key_labels[key] != -1, every query
    kQueries,  // query_labels[query] != -1, every key
  };
  Kind kind = Kind::kAll;
  bool causal = false;                            // and key <= query
  std::vector<int32_t> query_labels, key_labels;  // by row; kLabels: empty key_labels are query_labels
  int32_t low = 0, high = 0;                      // kLabels: 0, 0 is a partition; -1, 1 a block and its neighbours
  int32_t band = 0, dilation = 1;                 // kBand
  int32_t map_width = 0;                          // kBand, > 0: row r is the cell r - first_row of a map so wide
  int32_t first_row = 0;                          // of kBand's map; rows before it are in no pair

  static PairTerm all(bool causal = false);
  // The same label: windows, stripes, blocks, residue classes.
  static PairTerm partition(std::vector<int32_t> labels, bool causal = false);
  static PairTerm labels(std::vector<int32_t> query_labels, std::vector<int32_t> key_labels, int32_t low, int32_t high,
                         bool causal = false);
  static PairTerm band_of(int32_t band, int32_t dilation, bool causal = false);
  static PairTerm band_on_map(int32_t band, int32_t dilation, int32_t map_width, int32_t first_row);
  static PairTerm keys(std::vector<int32_t> labels, bool causal = false);
  static PairTerm queries(std::vector<int32_t> labels, bool causal = false);

  const std::vector<int32_t>& labels_of_keys() const { return key_labels.empty() ? query_labels : key_labels; }
  bool contains(int64_t query, int64_t key) const;
};

// A union of terms.
struct PairPattern {
  std::vector<PairTerm> terms;
  bool contains(int64_t query, int64_t key) const;
};

// Of `rows` rows, those before `end` labelled 0 and the others -1: what keys() and queries() take.
std::vector<int32_t> first_rows(int64_t rows, int64_t end);

}  // namespace fovea
