// What does an image show? Usage: classify MODEL IMAGE
#include <fovea/fovea.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: classify MODEL IMAGE\n"), 2;
  const fovea::Model model = fovea::Model::load(argv[1]);
  fovea::Session session(model);
  for (const fovea::Prediction& p : session.classify(argv[2])) std::printf("%6.2f %%  %s\n", 100 * p.probability, p.name.c_str());
}
