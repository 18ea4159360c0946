// fovea VERB ...: reads the command line, runs the verb, and turns what it throws into one line and an exit status.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <new>

#include "options.h"

namespace fovea::cli {

namespace {

constexpr int kOurs = 1, kUsers = 2;

// CLI11's messages as one sentence.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n') c = ' ';
  while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
  return text;
}

int fail(int status, const std::string& text) {
  fmt::print(stderr, "fovea: {}\n", one_line(text));
  return status;
}

int run(int argc, char** argv) {
  CLI::App app("Vision transformers whose attention is a part you can swap.", "fovea");
  app.footer("`fovea VERB --help` shows each verb's options and an example.");
  app.set_version_flag("--version", fovea::version());
  std::vector<Verb> verbs = {add_train(app), add_eval(app), add_classify(app), add_info(app), add_list(app), add_bench(app), add_compare(app),
                             add_convert(app), add_features(app)};
  std::string names;
  for (const Verb& v : verbs) names += (names.empty() ? "" : ", ") + v.app->get_name();
  if (argc < 2) return fail(kUsers, fmt::format("name a verb: {}; `fovea --help` says what each does", names));
  const std::string verb = argv[1];
  if (!verb.starts_with("-") && std::none_of(verbs.begin(), verbs.end(), [&](const Verb& v) { return v.app->get_name() == verb; }))
    return fail(kUsers, fmt::format("there is no verb '{}'; the verbs are {}", verb, names));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return fail(kUsers, fmt::format("{}; `fovea {}--help` shows the options", one_line(e.what()), verb.starts_with("-") ? "" : verb + " "));
  }
  for (const Verb& v : verbs)
    if (v.app->parsed()) return v.run();
  return fail(kUsers, fmt::format("name a verb: {}; `fovea --help` says what each does", names));
}

}  // namespace

}  // namespace fovea::cli

int main(int argc, char** argv) {
  using namespace fovea;
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows too large is an error of its write, with a message
  try {
    const int status = cli::run(argc, argv);
    if (std::fflush(stdout) != 0) return cli::fail(cli::kUsers, "the output could not be written; is the disk full?");
    return status;
  } catch (const Error& e) {
    return cli::fail(cli::kUsers, e.what());
  } catch (const std::bad_alloc&) {
    return cli::fail(cli::kOurs, "out of memory; use a smaller batch, image size or model");
  } catch (const std::exception& e) {
    return cli::fail(cli::kOurs, fmt::format("internal error, please report it: {}", e.what()));
  }
}
