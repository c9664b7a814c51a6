/* swinv2: Swin Transformer V2 image classification, from a model file to class names, without dependencies.
 *
 *     #include <stdio.h>
 *     #include <swinv2.h>
 *
 *     int main(int argc, char** argv) {
 *       swinv2_model* model;
 *       if (argc != 3) return 2;                                // model.safetensors photo.jpg
 *       if (swinv2_open(argv[1], NULL, &model)) return fprintf(stderr, "%s\n", swinv2_last_error()), 1;
 *       swinv2_score top[5];
 *       int found = swinv2_classify_file(model, argv[2], 5, top);
 *       if (found < 0) return fprintf(stderr, "%s\n", swinv2_last_error()), 1;
 *       for (int i = 0; i < found; i++) printf("%6.2f %%  %s\n", 100 * top[i].score, top[i].name);
 *       swinv2_close(model);
 *     }
 *
 * The file is the safetensors artifact that `swinv2 train` and `swinv2 convert` write: architecture, preprocessing
 * and class names are inside it, nothing is configured here.
 *
 * Every function that can fail returns a negative swinv2_status and leaves a sentence for people in
 * swinv2_last_error(). Nothing is written to the console, no exception leaves, no pointer that is handed in is kept.
 * A model may be used by several threads at once: calls on one model wait for each other, two models do not.
 */
#ifndef SWINV2_H
#define SWINV2_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && !defined(SWINV2_STATIC)
#ifdef SWINV2_BUILDING
#define SWINV2_API __declspec(dllexport)
#else
#define SWINV2_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define SWINV2_API __attribute__((visibility("default")))
#else
#define SWINV2_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SWINV2_VERSION 1 /* of this interface; swinv2_open refuses options of another one */

typedef enum swinv2_status {
  SWINV2_OK = 0,
  SWINV2_BAD_ARGUMENT = -1, /* what was handed in contradicts the documentation */
  SWINV2_NO_FILE = -2,      /* a file cannot be opened or read */
  SWINV2_BAD_MODEL = -3,    /* a model file that is damaged, or of a kind that is not run here */
  SWINV2_BAD_IMAGE = -4,    /* a picture that is damaged, or of a kind that is not decoded here */
  SWINV2_UNSUPPORTED = -5,  /* this processor or this build cannot do it */
  SWINV2_NO_MEMORY = -6,
  SWINV2_INTERNAL = -7 /* a mistake of ours: please report it */
} swinv2_status;

typedef struct swinv2_model swinv2_model; /* an open model with its threads and its memory */

/* How to open a model; zero means the default everywhere. */
typedef struct swinv2_options {
  int version;             /* SWINV2_VERSION, or 0 for the same */
  int threads;             /* default: the processor's cores, hyperthreads not counted twice where that is known */
  const char* precision;   /* "fp32" (default), "bf16", "int8" */
  const char* instructions; /* default: the best that this processor has; swinv2_describe() names it. Also
                              "reference", which every processor has and which is slow */
} swinv2_options;

/* What a model is; strings live as long as the model. */
typedef struct swinv2_info {
  const char* architecture; /* "swinv2_tiny_window8_256" */
  const char* precision;    /* as opened; "" without weights, as are instructions; threads and weight_bytes are 0 */
  const char* instructions; /* "avx512", "avx2", "neon", "reference" ... */
  int threads;
  int classes;       /* number of logits, or of pooled features where the model has no head */
  int channels;      /* of an image, 3 for colour */
  int height, width; /* of the image that preprocessing makes, in pixels */
  int stages;        /* swinv2_trace names "stage1" ... */
  size_t weight_bytes; /* held in memory for the weights as they are computed with */
} swinv2_info;

/* One class of an answer. */
typedef struct swinv2_score {
  int index;        /* of the logit */
  float score;      /* softmax probability, 0 to 1 */
  const char* name; /* lives as long as the model; "class 7" where the classes have no names */
} swinv2_score;

/* Whether swinv2_open takes these options on this processor: SWINV2_OK, or why not. options may be NULL. */
SWINV2_API int swinv2_check(const swinv2_options* options);

/* Opens a model file. options may be NULL. On failure *model is NULL. path is UTF-8, on Windows as well. */
SWINV2_API int swinv2_open(const char* path, const swinv2_options* options, swinv2_model** model);

/* The same of the bytes of a model file, which are no longer needed when it returns. */
SWINV2_API int swinv2_open_bytes(const void* bytes, size_t size, const swinv2_options* options,
                                 swinv2_model** model);

/* A model without weights, for programs in which another runtime computes: record is the JSON text that every export
 * of `swinv2 export` carries (swinv2_record returns it of a model file). It describes, prepares and ranks; what needs
 * weights is refused. Sizes and class names are those of the exported file, which may have another image size than
 * the model file that it was made from. On failure *model is NULL. */
SWINV2_API int swinv2_open_record(const char* record, swinv2_model** model);

/* Gives everything back; NULL is allowed. No call on the model may be under way. */
SWINV2_API void swinv2_close(swinv2_model* model);

/* What the model is. NULL where model is NULL. */
SWINV2_API const swinv2_info* swinv2_describe(const swinv2_model* model);

/* The name of a class; "class 7" where the classes have no names, NULL where there is no such class. */
SWINV2_API const char* swinv2_class_name(const swinv2_model* model, int index);

/* The record of the model as JSON text (docs/weights.md describes it). */
SWINV2_API const char* swinv2_record(const swinv2_model* model);

/* The k likeliest classes, best first, of one picture; returns how many were written (k, or the number of classes
 * where that is less). A file, its bytes (JPEG, PNG, WebP, ... as this build decodes), or RGB pixels. */
SWINV2_API int swinv2_classify_file(swinv2_model* model, const char* path, int k, swinv2_score* top);
SWINV2_API int swinv2_classify_bytes(swinv2_model* model, const void* bytes, size_t size, int k, swinv2_score* top);
SWINV2_API int swinv2_classify_pixels(swinv2_model* model, const uint8_t* rgb, int width, int height,
                                      ptrdiff_t row_bytes, int k, swinv2_score* top);

/* The same of logits that were computed elsewhere, float [info.classes]. */
SWINV2_API int swinv2_rank(const swinv2_model* model, const float* logits, int k, swinv2_score* top);

/* The preprocessing alone: resize, crop and normalise as the model's record says.
 * tensor: float [channels, info.height, info.width]. The same pixels as the Python package, to the last bit.
 * RGB pixels may be 1 (grey) or 3 bytes each, as the model's channels are. */
SWINV2_API int swinv2_prepare_bytes(swinv2_model* model, const void* bytes, size_t size, float* tensor);
SWINV2_API int swinv2_prepare_pixels(swinv2_model* model, const uint8_t* rgb, int width, int height,
                                     ptrdiff_t row_bytes, float* tensor);

/* The network alone. images: float [batch, channels, height, width], normalised; any height and width of at least
 * one pixel. logits: float [batch, info.classes]. */
SWINV2_API int swinv2_run(swinv2_model* model, const float* images, int64_t batch, int height, int width, float* logits);

/* As swinv2_run, for batch 1, calling back with every named intermediate: "embed", "stage1.block1", ..., "stage1"
 * (after its patch merging), "norm", "pooled", "logits". values: float, of the shape [dims] (rows, columns, channels for
 * maps), valid during the call. */
typedef void (*swinv2_watcher)(void* context, const char* name, const float* values, const int64_t* shape, int dims);
SWINV2_API int swinv2_trace(swinv2_model* model, const float* image, int height, int width, swinv2_watcher watch,
                            void* context);

/* What went wrong in the last call of this thread that failed. Never NULL. */
SWINV2_API const char* swinv2_last_error(void);

/* "1.0.0 jpeg png webp": the version of the library and what it decodes. */
SWINV2_API const char* swinv2_build(void);

#ifdef __cplusplus
}
#endif
#endif
