#include "report/html.h"

#include <fmt/format.h>

#include <cstdint>

#include "core/check.h"
#include "report/svg_chart.h"

namespace fovea::report {
namespace {

constexpr size_t kTallTable = 40;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The length in bytes of the well-formed UTF-8 sequence that `text` starts with (Unicode 15, table 3-7); 0 if there is
// none.
size_t utf8_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto trail = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint8_t first = byte(0);
  if (first < 0x80) return text.empty() ? 0 : 1;
  if (first >= 0xC2 && first <= 0xDF) return trail(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool range = !(first == 0xE0 && byte(1) < 0xA0) && !(first == 0xED && byte(1) > 0x9F);
    return range && trail(1) && trail(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool range = !(first == 0xF0 && byte(1) < 0x90) && !(first == 0xF4 && byte(1) > 0x8F);
    return range && trail(1) && trail(2) && trail(3) ? 4 : 0;
  }
  return 0;
}

constexpr std::string_view kPageCss =
    ":root{color-scheme:light dark;--panel:#f5f7f9;--heat:0,114,178;--miss:213,94,0;--on-heat:#fff}"
    "@media(prefers-color-scheme:dark){:root{--panel:#1b2229;--heat:90,180,234;--miss:255,143,74;"
    "--on-heat:#0c1116}}"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--page);color:var(--ink);overflow-wrap:anywhere;"
    "font:16px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif}"
    "main{max-width:1120px;margin:0 auto;padding:24px 20px 64px}"
    "h1{font-size:1.7rem;line-height:1.25;margin:.2em 0 .4em}h2{font-size:1.25rem;margin:2.4em 0 .5em;"
    "padding-top:.7em;border-top:1px solid var(--rule)}h3{font-size:1rem;margin:0 0 .5em}"
    "p{margin:.5em 0;max-width:75ch}.result{font-size:1.25rem;line-height:1.4}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:12px;margin:18px 0}"
    ".tile{background:var(--panel);border-radius:8px;padding:12px 14px}.tile b{display:block;font-size:1.6rem;"
    "line-height:1.3;font-weight:600}.tile i{font-style:normal;font-weight:600}"
    ".tile small,figcaption,.note,.terms{color:var(--soft);font-size:.875rem;line-height:1.45}.tile "
    "small{display:block}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:28px 32px;margin:16px "
    "0}"
    "figure{margin:0;min-width:0}figcaption{margin-top:6px}.charts svg{max-width:620px}"
    ".scroll{overflow-x:auto;margin:12px 0 6px;max-width:100%}.tall{max-height:32rem;overflow-y:auto;"
    "border-bottom:1px solid var(--rule)}"
    "table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;color:var(--soft);font-size:.875rem;padding-bottom:6px}"
    "th,td{padding:4px 12px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);"
    "overflow-wrap:normal}th{font-weight:600}.n{text-align:right;white-space:nowrap}.path{overflow-wrap:anywhere;min-"
    "width:12em}"
    ".tall thead th{position:sticky;top:0;background:var(--page)}"
    ".terms{margin:6px 0 0;padding:0}.terms div{margin:1px 0;max-width:75ch}.terms dt,.terms "
    "dd{display:inline;margin:0}"
    ".terms dt{font-weight:600}.terms dt:after{content:\": \"}"
    ".facts{margin:8px 0}.facts div{display:grid;grid-template-columns:11rem minmax(0,18rem) minmax(0,1fr);gap:0 18px;"
    "padding:5px 0;border-bottom:1px solid var(--rule)}.facts dt{font-weight:600}.facts dd{margin:0}"
    ".facts+h3{margin-top:1.4em}"
    ".facts .why{color:var(--soft);font-size:.875rem}"
    ".cm td,.cm th{border:1px solid var(--page);padding:3px "
    "5px;text-align:center;font-size:.8rem;vertical-align:middle}"
    ".cm td{white-space:nowrap;min-width:2.9em;background:var(--panel)}.cm tbody "
    "th{text-align:right;position:sticky;left:0;"
    "background:var(--page);min-width:5em;max-width:11em;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}"
    ".cm thead th{vertical-align:bottom;font-weight:600}.cm .v{writing-mode:vertical-rl;transform:rotate(180deg);"
    "max-height:9em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;text-align:left;margin:0 "
    "auto;line-height:1.15}"
    ".cm td.h{background:rgba(var(--heat),var(--a))}.cm td.e{background:rgba(var(--miss),var(--a))}"
    ".cm td.x{color:var(--on-heat)}.cm td.z{color:var(--soft)}"
    ".shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:18px 16px;margin:16px 0}"
    ".shots img{display:block;width:112px;height:112px;object-fit:contain;background:var(--panel);"
    "image-rendering:pixelated;border-radius:4px}.shots b{color:var(--ink);font-weight:600}.shots span{display:block}"
    ".shots .file{font-size:.75rem}"
    "code{font-family:ui-monospace,\"DejaVu Sans Mono\",monospace;font-size:.9em}"
    "@media(max-width:640px){main{padding:16px 14px 48px}h1{font-size:1.4rem}.result{font-size:1.1rem}"
    ".facts div{grid-template-columns:1fr}.shots{grid-template-columns:repeat(auto-fill,minmax(130px,1fr))}"
    "table:not(.cm) td:not(.n){overflow-wrap:anywhere;min-width:6em}"
    ".cm td,.cm th{padding:2px 3px;font-size:.72rem}.cm td{min-width:2.2em}.cm tbody th{max-width:8em}}"
    "@media print{.tall{max-height:none}h2{break-after:avoid}figure{break-inside:avoid}}";

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_sequence(text.substr(i));
    const char c = text[i];
    if (length == 0 || (length == 1 && (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) && c != '\n' && c != '\t')) {
      out += kReplacement;
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else {
      out += text.substr(i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return out;
}

int count_characters(std::string_view text) {
  int count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return count;
}

std::string shortened(std::string_view text, int most) {
  if (count_characters(text) <= most) return std::string(text);
  size_t end = 0;
  for (int kept = 0; end < text.size(); ++end) {
    if ((static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) continue;
    if (++kept >= most) break;
  }
  return std::string(text.substr(0, end)) + "…";
}

Html paragraph(const Html& content) { return {"<p>" + content.markup + "</p>\n"}; }

Html to_html(const Table& table) {
  std::string out = fmt::format("<div class=\"scroll{}\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table>",
                                table.rows.size() > kTallTable ? " tall" : "", escape(table.caption));
  if (!table.caption.empty()) out += "<caption>" + escape(table.caption) + "</caption>";
  const auto css = [](const Column& column) { return column.align == Align::kNumber ? " class=\"n\"" : ""; };
  out += "<thead><tr>";
  for (const Column& column : table.columns)
    out += fmt::format("<th scope=\"col\"{}>{}</th>", css(column), escape(column.head));
  out += "</tr></thead><tbody>\n";
  for (const std::vector<Html>& row : table.rows) {
    check(row.size() == table.columns.size(), "Table '{}': a row of {} cells for {} columns", table.caption, row.size(),
          table.columns.size());
    out += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) out += fmt::format("<td{}>{}</td>", css(table.columns[i]), row[i].markup);
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
  std::string terms;
  for (const Column& column : table.columns)
    if (!column.meaning.empty())
      terms += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape(column.head), escape(column.meaning));
  if (!terms.empty()) out += "<dl class=\"terms\">" + terms + "</dl>\n";
  return {out};
}

Html figure(const Html& content, const Html& caption) {
  return {"<figure>" + content.markup + "<figcaption>" + caption.markup + "</figcaption></figure>\n"};
}

Html definitions(const std::vector<Definition>& list) {
  std::string out = "<dl class=\"facts\">";
  for (const Definition& entry : list)
    out += fmt::format("<div><dt>{}</dt><dd>{}</dd><dd class=\"why\">{}</dd></div>\n", escape(entry.name),
                       escape(entry.value), escape(entry.meaning));
  return {out + "</dl>\n"};
}

void Page::section(std::string_view heading, const Html& content) {
  sections_.markup += "<section><h2>" + escape(heading) + "</h2>\n" + content.markup + "</section>\n";
}

std::string Page::str() const {
  const std::string title = escape(title_);
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
         "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/><title>" +
         title + "</title>\n<style>" + chart_css() + std::string(kPageCss) + "</style></head>\n<body><main>\n<h1>" +
         title + "</h1>\n" + lead_.markup + sections_.markup + "</main></body></html>\n";
}

}  // namespace fovea::report
