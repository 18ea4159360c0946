#include "report/csv.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace fovea::report {
namespace {

struct ParsedRow {
  CsvRow fields;
  size_t end;  // offset behind its line end
};

std::vector<ParsedRow> parse_rows(std::string_view text) {
  std::vector<ParsedRow> rows;
  CsvRow fields;
  std::string field;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c != '"') {
        field += c;
      } else if (i + 1 < text.size() && text[i + 1] == '"') {
        field += '"';
        ++i;
      } else {
        quoted = false;
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == ',') {
      fields.push_back(std::exchange(field, {}));
    } else if (c == '\n') {
      if (!field.empty() && field.back() == '\r') field.pop_back();
      fields.push_back(std::exchange(field, {}));
      rows.push_back({std::exchange(fields, {}), i + 1});
    } else {
      field += c;
    }
  }
  return rows;
}

std::string read_all(int file, const std::string& path) {
  std::string text;
  char block[1 << 14];
  for (;;) {
    const ssize_t got = ::read(file, block, sizeof block);
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot read '{}': {}", path, std::strerror(errno));
    text.append(block, static_cast<size_t>(got));
  }
}

int open_for_append(const std::string& path, int flags) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0666);
  if (file < 0) {
    const int reason = errno;
    fail("cannot write '{}': {}; check that the folder exists and may be written to", path, std::strerror(reason));
  }
  return file;
}

std::string joined(const CsvRow& fields) {
  std::string line;
  for (size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) line += ',';
    line += csv_field(fields[i]);
  }
  return line;
}

}  // namespace

std::string csv_field(std::string_view text) {
  const bool blank_edge = !text.empty() && (text.front() == ' ' || text.back() == ' ');
  if (text.find_first_of(",\"\r\n") == std::string_view::npos && !blank_edge) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string csv_number(double value) {
  if (std::isnan(value)) return "nan";  // without a sign, which depends on how the NaN came about
  return fmt::format("{}", value);
}

std::vector<CsvRow> parse_csv(std::string_view text) {
  std::vector<CsvRow> rows;
  for (ParsedRow& row : parse_rows(text)) rows.push_back(std::move(row.fields));
  return rows;
}

CsvWriter::CsvWriter(std::string path, size_t columns, int file)
    : path_(std::move(path)), columns_(columns), file_(file) {}

CsvWriter::CsvWriter(CsvWriter&& other) noexcept
    : path_(std::move(other.path_)),
      columns_(other.columns_),
      file_(std::exchange(other.file_, -1)),
      kept_rows_(std::move(other.kept_rows_)) {}

CsvWriter::~CsvWriter() {
  if (file_ >= 0) ::close(file_);
}

CsvWriter CsvWriter::create(const std::string& path, const CsvRow& columns) {
  CsvWriter writer(path, columns.size(), open_for_append(path, O_TRUNC));
  writer.append(columns);
  return writer;
}

CsvWriter CsvWriter::resume(const std::string& path, const CsvRow& columns, int64_t keep_rows) {
  CsvWriter writer(path, columns.size(), open_for_append(path, 0));
  const std::string text = read_all(writer.file_, path);
  std::vector<ParsedRow> rows = parse_rows(text);
  size_t end = 0;
  if (!rows.empty()) {
    require(rows.front().fields == columns,
            "'{}' has the columns '{}' where '{}' were expected; move it away to start a new one", path,
            joined(rows.front().fields), joined(columns));
    const size_t kept = std::min(rows.size(), 1 + static_cast<size_t>(std::max<int64_t>(keep_rows, 0)));
    end = rows[kept - 1].end;
    for (size_t i = 1; i < kept; ++i) writer.kept_rows_.push_back(std::move(rows[i].fields));
  }
  if (end < text.size() && ::ftruncate(writer.file_, static_cast<off_t>(end)) != 0)
    fail("cannot shorten '{}': {}", path, std::strerror(errno));
  if (end == 0) writer.append(columns);
  return writer;
}

void CsvWriter::write_row(const CsvRow& fields) {
  check(fields.size() == columns_, "CsvWriter: a row of {} fields for the {} columns of '{}'", fields.size(), columns_,
        path_);
  append(fields);
}

void CsvWriter::append(const CsvRow& fields) {
  const std::string line = joined(fields) + '\n';
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = ::write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot write '{}': {}; free some space and resume", path_, std::strerror(errno));
    rest.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace fovea::report
