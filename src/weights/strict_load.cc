#include "weights/strict_load.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>
#include <unordered_set>

#include "core/check.h"

namespace fovea {

namespace {

// A name cut where its numbers begin and end: text, number, text, ...
struct CutName {
  std::vector<std::string> pieces;
};

CutName cut(std::string_view name) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  CutName out;
  out.pieces.emplace_back();
  bool number = false;
  for (const char c : name) {
    if (is_digit(c) != number) {
      number = !number;
      out.pieces.emplace_back();
    }
    out.pieces.back() += c;
  }
  return out;
}

// "3", "{0-2,5}" or, for what are no short numbers, "{00,01}".
std::string set_of(const std::vector<std::string>& numbers) {
  if (numbers.size() == 1) return numbers[0];
  std::vector<std::string> items;
  size_t run = 0;  // how many numbers the last item stands for
  int64_t last = -2;
  for (const std::string& text : numbers) {
    int64_t n = -2;
    if (text.size() < 10 && (text == "0" || text[0] != '0')) std::from_chars(text.data(), text.data() + text.size(), n);
    if (n >= 0 && n == last + 1 && run > 0) {
      const std::string begin = items.back().substr(0, items.back().find('-'));
      items.back() = begin + "-" + text;
      ++run;
    } else {
      items.push_back(text);
      run = n >= 0 ? 1 : 0;
    }
    last = n;
  }
  for (std::string& item : items)  // {0,1} reads better than {0-1}
    if (const size_t dash = item.find('-'); dash != std::string::npos) {
      const int64_t begin = std::stoll(item.substr(0, dash)), end = std::stoll(item.substr(dash + 1));
      if (end == begin + 1) item[dash] = ',';
    }
  return fmt::format("{{{}}}", fmt::join(items, ","));
}

// Joins the names that are equal but for their `at`th piece.
void join_at(std::vector<CutName>& names, size_t at) {
  std::vector<CutName> out;
  std::vector<std::vector<std::string>> numbers;
  std::unordered_map<std::string, size_t> index;
  for (CutName& n : names) {
    std::string key;
    for (size_t i = 0; i < n.pieces.size(); ++i) key += (i == at ? std::string("#") : n.pieces[i]) + '\x1f';
    if (at >= n.pieces.size()) key += "\x1e";  // has no such piece: stays alone
    const auto [found, is_new] = index.emplace(std::move(key), out.size());
    if (is_new) {
      numbers.emplace_back();
      out.push_back(std::move(n));
    }
    if (const CutName& kept = is_new ? out.back() : n; at < kept.pieces.size()) numbers[found->second].push_back(kept.pieces[at]);
  }
  for (size_t i = 0; i < out.size(); ++i)
    if (at < out[i].pieces.size()) out[i].pieces[at] = set_of(numbers[i]);
  names = std::move(out);
}

// "; 12 missing: 'a', 'b'", or nothing when the list is empty. `notes` go after the names, which are only put together under
// the same one. Hostile files hold any number of names: what a screen cannot hold is counted.
void append_group(std::string& text, std::string_view what, const std::vector<std::string>& names, const std::vector<std::string>& notes = {}) {
  constexpr size_t kShown = 200;
  if (names.empty()) return;
  std::vector<std::string> entries;
  std::unordered_map<std::string, std::vector<std::string>> by_note;
  std::vector<std::string> order;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string note = notes.empty() ? "" : notes[i];
    if (!by_note.contains(note)) order.push_back(note);
    by_note[note].push_back(names[i]);
  }
  for (const std::string& note : order)
    for (const std::string& name : put_together(by_note[note])) entries.push_back(printable(name) + note);
  const std::span<const std::string> shown = std::span(entries).first(std::min(entries.size(), kShown));
  text += fmt::format("{}{} {}: {}", text.empty() ? "" : "; ", names.size(), what, fmt::join(shown, ", "));
  if (entries.size() > kShown) text += fmt::format(" ... and {} more", entries.size() - kShown);
}

}  // namespace

std::vector<std::string> put_together(std::span<const std::string> names) {
  std::vector<CutName> cuts;
  size_t longest = 0;
  for (const std::string& n : names) {
    cuts.push_back(cut(n));
    longest = std::max(longest, cuts.back().pieces.size());
  }
  constexpr size_t kMostPieces = 16;
  for (size_t at = 1; at < std::min(longest, kMostPieces); at += 2) join_at(cuts, at);
  std::vector<std::string> out;
  for (const CutName& c : cuts) out.push_back(fmt::format("{}", fmt::join(c.pieces, "")));
  return out;
}

void require_match(std::span<const WantedTensor> wanted, const MappedWeights& weights, std::string_view model,
                   const std::function<std::string()>& remark) {
  std::unordered_map<std::string_view, const MappedTensor*> given;
  for (const MappedTensor& t : weights.tensors) given.emplace(t.name, &t);
  std::unordered_set<std::string_view> wanted_names;
  std::vector<std::string> missing, unexpected, misshapen, shapes;
  for (const WantedTensor& w : wanted) {
    wanted_names.insert(w.name);
    const auto it = given.find(w.name);
    if (it == given.end()) {
      missing.push_back(w.name);
    } else if (it->second->shape != w.shape) {
      misshapen.push_back(w.name);
      shapes.push_back(fmt::format(" is {} instead of {}", it->second->shape, w.shape));
    }
  }
  for (const MappedTensor& t : weights.tensors)
    if (!wanted_names.contains(t.name)) unexpected.push_back(t.name);
  unexpected.insert(unexpected.end(), weights.unmatched.begin(), weights.unmatched.end());
  if (missing.empty() && unexpected.empty() && misshapen.empty()) return;

  std::string text;
  append_group(text, "missing", missing);
  append_group(text, "unexpected", unexpected);
  append_group(text, "of another shape", misshapen, shapes);
  fail("the weights in '{}' do not fit {}: {}{}", weights.path, model, text, remark ? remark() : "");
}

}  // namespace fovea
