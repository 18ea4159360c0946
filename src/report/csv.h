// Tables as comma separated values (RFC 4180, lines end in \n), written row by row so that an interrupted run keeps all
// rows up to the last.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fovea::report {

using CsvRow = std::vector<std::string>;

// A field as it stands in the file: quoted only where commas, quotes, line ends or outer blanks require it.
std::string csv_field(std::string_view text);

// The shortest text that reads back as the same double; "nan", "inf" and "-inf" for what is not finite.
std::string csv_number(double value);

// All complete rows of `text`, the header included; a last row without its line end (an interrupted write) is left out.
std::vector<CsvRow> parse_csv(std::string_view text);

class CsvWriter {
 public:
  // Starts a new file with its header row; an existing file is replaced. Throws Error if it cannot be written.
  static CsvWriter create(const std::string& path, const CsvRow& columns);

  // Continues an existing file: checks its header, keeps at most its first `keep_rows` rows and drops what follows
  // (rows newer than the checkpoint that is resumed, or half a row of a killed run). A missing or empty file is
  // created. Throws Error if the file has other columns.
  static CsvWriter resume(const std::string& path, const CsvRow& columns, int64_t keep_rows);

  CsvWriter(CsvWriter&& other) noexcept;
  CsvWriter& operator=(CsvWriter&&) = delete;
  ~CsvWriter();

  // Appends one row (as many fields as columns) with a single system call: it is in the file when this returns.
  void write_row(const CsvRow& fields);

  // The rows that `resume` kept, without the header.
  const std::vector<CsvRow>& kept_rows() const { return kept_rows_; }

 private:
  CsvWriter(std::string path, size_t columns, int file);
  void append(const CsvRow& fields);

  std::string path_;
  size_t columns_;
  int file_;
  std::vector<CsvRow> kept_rows_;
};

}  // namespace fovea::report
