#include "report/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "fovea/error.h"
#include "report/text_file.h"

namespace fovea::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class FileTest : public testing::Test {
 protected:
  FileTest() : folder_(std::filesystem::temp_directory_path() / ("fovea_report_test_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~FileTest() override { std::filesystem::remove_all(folder_); }

  std::string path(const char* name) const { return (folder_ / name).string(); }
  static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

  std::filesystem::path folder_;
};

class Csv : public FileTest {};
class TextFile : public FileTest {};

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(CsvField, QuotesOnlyWhereNeeded) {
  EXPECT_EQ(csv_field("plain text"), "plain text");
  EXPECT_EQ(csv_field(""), "");
  EXPECT_EQ(csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(csv_field("say \"hi\""), "\"say \"\"hi\"\"\"");
  EXPECT_EQ(csv_field("two\nlines"), "\"two\nlines\"");
  EXPECT_EQ(csv_field(" edge"), "\" edge\"");
}

TEST(CsvNumber, ReadsBackAsTheSameDouble) {
  for (const double value : {0.1, 1.0 / 3, 1e-300, -2.5e17, std::numeric_limits<double>::denorm_min()})
    EXPECT_EQ(std::strtod(csv_number(value).c_str(), nullptr), value);
  EXPECT_EQ(csv_number(NAN), "nan");
  EXPECT_EQ(csv_number(-NAN), "nan");
  EXPECT_EQ(csv_number(-INFINITY), "-inf");
}

TEST(CsvParse, InvertsTheWriterAndDropsTheUnfinishedRow) {
  EXPECT_THAT(parse_csv("a,b\n\"x,\"\"y\"\"\n z\",\r\nhalf,a row"),
              ElementsAre(ElementsAre("a", "b"), ElementsAre("x,\"y\"\n z", "")));
  EXPECT_THAT(parse_csv(""), IsEmpty());
  EXPECT_THAT(parse_csv("a,\"never closed\n"), IsEmpty());
}

TEST_F(Csv, EachRowIsInTheFileAtOnce) {
  CsvWriter writer = CsvWriter::create(path("m.csv"), {"epoch", "note"});
  EXPECT_EQ(read(path("m.csv")), "epoch,note\n");
  writer.write_row({"1", "a,b"});
  EXPECT_EQ(read(path("m.csv")), "epoch,note\n1,\"a,b\"\n");
  EXPECT_THROW(writer.write_row({"1"}), InternalError);
}

TEST_F(Csv, ResumeKeepsTheRowsOfTheCheckpoint) {
  put(path("m.csv"), "epoch,loss\n1,0.5\n2,0.4\n3,0.3\n4,0.");
  CsvWriter writer = CsvWriter::resume(path("m.csv"), {"epoch", "loss"}, 2);
  EXPECT_THAT(writer.kept_rows(), ElementsAre(ElementsAre("1", "0.5"), ElementsAre("2", "0.4")));
  writer.write_row({"3", "0.35"});
  EXPECT_EQ(read(path("m.csv")), "epoch,loss\n1,0.5\n2,0.4\n3,0.35\n");
}

TEST_F(Csv, ResumeDropsHalfARowAndKeepsAllWhenFewer) {
  put(path("m.csv"), "epoch,loss\n1,0.5\n2,0.");
  CsvWriter::resume(path("m.csv"), {"epoch", "loss"}, 9).write_row({"2", "0.4"});
  EXPECT_EQ(read(path("m.csv")), "epoch,loss\n1,0.5\n2,0.4\n");
}

TEST_F(Csv, ResumeStartsAMissingEmptyOrTruncatedFile) {
  for (const char* before : {"", "epo", static_cast<const char*>(nullptr)}) {
    std::filesystem::remove(path("m.csv"));
    if (before) put(path("m.csv"), before);
    EXPECT_THAT(CsvWriter::resume(path("m.csv"), {"epoch"}, 3).kept_rows(), IsEmpty());
    EXPECT_EQ(read(path("m.csv")), "epoch\n");
  }
}

TEST_F(Csv, ResumeRefusesOtherColumnsAndLeavesTheFileAlone) {
  put(path("m.csv"), "name,age\nx,3\n");
  EXPECT_THAT(error_of([&] {
                CsvWriter::resume(path("m.csv"), {"epoch", "loss"}, 1);
              }),
              testing::AllOf(HasSubstr("name,age"), HasSubstr("epoch,loss"), HasSubstr("m.csv")));
  EXPECT_EQ(read(path("m.csv")), "name,age\nx,3\n");
}

TEST_F(Csv, SaysWhichFileCannotBeWritten) {
  EXPECT_THAT(error_of([&] { CsvWriter::create(path("no/such/folder.csv"), {"a"}); }), HasSubstr("no/such/folder.csv"));
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full to stand for a full disk";
  EXPECT_THAT(error_of([] { CsvWriter::create("/dev/full", {"a"}); }), HasSubstr("No space left"));
}

TEST_F(TextFile, ReplacesTheFileAndLeavesNothingElse) {
  write_text_atomically(path("r.html"), "old");
  write_text_atomically(path("r.html"), std::string(100000, 'n'));
  EXPECT_EQ(read(path("r.html")), std::string(100000, 'n'));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(TextFile, FailureKeepsTheOldStateAndNamesThePath) {
  EXPECT_THAT(error_of([&] { write_text_atomically(path("no/such/r.html"), "x"); }), HasSubstr("no/such/r.html"));
  std::filesystem::create_directories(path("taken"));
  put(path("taken/inside"), "x");
  EXPECT_THAT(error_of([&] { write_text_atomically(path("taken"), "x"); }), HasSubstr("taken"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);  // no temporary file stays
}

}  // namespace
}  // namespace fovea::report
