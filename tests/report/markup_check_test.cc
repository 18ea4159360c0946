#include "markup_check.h"

#include <gtest/gtest.h>

#include <cctype>
#include <set>
#include <vector>

namespace fovea::report {
namespace {

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == ':' || c == '_'; }

bool entities_ok(std::string_view text) {
  for (size_t at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    const size_t end = text.find(';', at);
    if (end == std::string_view::npos) return false;
    const std::string_view name = text.substr(at + 1, end - at - 1);
    static const std::set<std::string_view> kKnown = {"amp", "lt", "gt", "quot", "#39"};
    if (!kKnown.count(name)) return false;
  }
  return text.find('<') == std::string_view::npos;
}

// Problem of the inside of one start tag ("td class=\"n\"").
std::string tag_problem(std::string_view tag) {
  size_t i = 0;
  while (i < tag.size() && is_name(tag[i])) ++i;
  std::set<std::string_view> seen;
  while (i < tag.size()) {
    if (tag[i] != ' ') return "no blank before an attribute";
    const size_t begin = ++i;
    while (i < tag.size() && is_name(tag[i])) ++i;
    const std::string_view name = tag.substr(begin, i - begin);
    if (name.empty() || !seen.insert(name).second) return "attribute without a name or twice";
    if (tag.substr(i, 2) != "=\"") return "attribute without a quoted value";
    const size_t close = tag.find('"', i + 2);
    if (close == std::string_view::npos || !entities_ok(tag.substr(i + 2, close - i - 2))) return "bad attribute value";
    i = close + 1;
  }
  return {};
}

}  // namespace

std::string markup_problem(std::string_view page) {
  std::vector<std::string_view> open;
  size_t at = 0;
  const auto problem = [&](const std::string& what) {
    return what + " near: " + std::string(page.substr(at > 60 ? at - 60 : 0, 160));
  };
  while (at < page.size()) {
    const size_t tag = std::min(page.find('<', at), page.size());
    if (!entities_ok(page.substr(at, tag - at))) return problem("bare & in text");
    if (tag == page.size()) break;
    at = tag;
    // Attribute values may hold no < or >, which entities_ok and this search rely on: the writer escapes both.
    const size_t end = page.find('>', tag);
    if (end == std::string_view::npos) return problem("unfinished tag");
    std::string_view inside = page.substr(tag + 1, end - tag - 1);
    at = end + 1;
    if (inside.starts_with("!DOCTYPE") || inside.starts_with("?xml")) continue;
    if (inside.starts_with("/")) {
      if (open.empty() || open.back() != inside.substr(1)) return problem("wrong end tag " + std::string(inside));
      open.pop_back();
      continue;
    }
    const bool empty = inside.ends_with("/");
    if (empty) inside.remove_suffix(1);
    if (const std::string what = tag_problem(inside); !what.empty()) return problem(what);
    if (!empty) open.push_back(inside.substr(0, inside.find(' ')));
  }
  return open.empty() ? "" : "not closed: " + std::string(open.back());
}

int occurrences(std::string_view text, std::string_view what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + what.size())) ++count;
  return count;
}

namespace {

TEST(MarkupCheck, AcceptsGoodAndRejectsEachKindOfBad) {
  EXPECT_EQ(markup_problem("<!DOCTYPE html><a b=\"1\" c=\"x &lt; y\"><br/>t &amp; u</a>"), "");
  for (const char* bad : {"<a>", "</a>", "<a><b></a></b>", "<a b=1></a>", "<a b=\"1\" b=\"2\"></a>", "a & b",
                          "<a b=\"&x\"></a>", "<a b=\"1\"c=\"2\"></a>", "<a", "<a>&nbsp;</a>", "<a b=\"<\"></a>"})
    EXPECT_NE(markup_problem(bad), "") << bad;
}

}  // namespace
}  // namespace fovea::report
