// Self-contained HTML pages: escaped text, sections, tables, figures, inline style sheet, no script.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fovea::report {

// Text made safe for element content and for double-quoted attributes, of HTML and of XML: & < > " ' become entities,
// control characters and bytes that are not UTF-8 become U+FFFD.
std::string escape(std::string_view text);

// The number of characters (code points) of well-formed UTF-8.
int count_characters(std::string_view text);

// At most `most` characters, the last one an ellipsis if something was left out.
std::string shortened(std::string_view text, int most);

// Markup that may go into a page as it is. Text becomes markup through `text`, and in no other way by accident.
struct Html {
  std::string markup;
  Html& operator+=(const Html& other) {
    markup += other.markup;
    return *this;
  }
};

inline Html text(std::string_view plain) { return {escape(plain)}; }
Html paragraph(const Html& content);

enum class Align { kText, kNumber };

struct Column {
  std::string head;
  std::string meaning;  // what the numbers below are, with their unit; listed under the table when not empty
  Align align = Align::kText;
};

struct Table {
  std::string caption;  // what the table shows
  std::vector<Column> columns;
  std::vector<std::vector<Html>> rows;  // each as long as columns
};

// The table in a container that scrolls by itself (sideways on narrow screens, downwards beyond some forty rows), and
// the meanings of its columns.
Html to_html(const Table& table);

// A figure with its caption.
Html figure(const Html& content, const Html& caption);

struct Definition {
  std::string name;
  std::string value;
  std::string meaning;
};

// Name, value and meaning in columns (one below the other on narrow screens).
Html definitions(const std::vector<Definition>& list);

class Page {
 public:
  explicit Page(std::string title) : title_(std::move(title)) {}

  // Content before the first section, below the title.
  void lead(const Html& content) { lead_ += content; }
  void section(std::string_view heading, const Html& content);
  std::string str() const;

 private:
  std::string title_;
  Html lead_;
  Html sections_;
};

}  // namespace fovea::report
