/* The five likeliest classes of a picture, in C: ./classify model.safetensors photo.jpg */
#include <stdio.h>
#include <swinv2.h>

static int failed(void) {
  fprintf(stderr, "%s\n", swinv2_last_error());
  return 1;
}

int main(int argc, char** argv) {
  swinv2_model* model;
  swinv2_score top[5];
  if (argc != 3) return fprintf(stderr, "usage: %s model.safetensors photo.jpg\n", argv[0]), 2;
  if (swinv2_open(argv[1], NULL, &model)) return failed();
  const int found = swinv2_classify_file(model, argv[2], 5, top);
  for (int i = 0; i < found; i++) printf("%6.2f %%  %s\n", 100 * top[i].score, top[i].name);
  swinv2_close(model);
  return found < 0 ? failed() : 0;
}
