/* C interface of candle-coreml: Core ML models and language models.
 *
 * A function that can fail takes `CcmlError **error`, which may be NULL, and returns NULL or false. Objects are freed by the
 * function of their name. Texts are UTF-8. Models may be used by several threads at once; states and language models too,
 * but calls wait for each other. Made by cbindgen: UPDATE_HEADER=1 cargo test -p candle-coreml-c --test header
 */

#ifndef CANDLE_COREML_H
#define CANDLE_COREML_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Kind of value: a tensor of `dtype`, `shape`, `rank` and `data`. Images are tensors `[1, channels, height, width]`.
#define CCML_TENSOR 0

// Kind of value: `integer`.
#define CCML_INT64 1

// Kind of value: `number`.
#define CCML_DOUBLE 2

// Kind of value: `text`.
#define CCML_STRING 3

// Kind of value: `integers`, `count` of them.
#define CCML_INT64S 4

// Kind of value: `texts`, `count` of them.
#define CCML_STRINGS 5

// Kind of value: `numbers` by keys, `count` of them: keys are `texts`, or `integers` where `texts` is null.
#define CCML_DICTIONARY 6

// Element type: 8 bits without a sign.
#define CCML_U8 0

// Element type: 32 bits without a sign.
#define CCML_U32 1

// Element type: 16 bits with a sign.
#define CCML_I16 2

// Element type: 32 bits with a sign.
#define CCML_I32 3

// Element type: 64 bits with a sign.
#define CCML_I64 4

// Element type: bfloat16.
#define CCML_BF16 5

// Element type: IEEE half precision.
#define CCML_F16 6

// Element type: `float`.
#define CCML_F32 7

// Element type: `double`.
#define CCML_F64 8

// An error; freed by `ccml_error_free`.
typedef struct CcmlError CcmlError;

// A language model with its tokenizer and one conversation; freed by `ccml_language_free`.
typedef struct CcmlLanguage CcmlLanguage;

// A loaded function of a model; freed by `ccml_model_free`.
typedef struct CcmlModel CcmlModel;

// Outputs of a prediction, or one state; freed by `ccml_outputs_free`, until when its features live.
typedef struct CcmlOutputs CcmlOutputs;

// State of a model between predictions, such as a key-value cache; freed by `ccml_state_free`.
typedef struct CcmlState CcmlState;

// Options for opening models; null members are the defaults.
typedef struct CcmlOptions {
  // Function of a model with several; null: the default one. Not for language models.
  const char *function;
  // `auto`, `native` or `portable`; null: `auto`.
  const char *engine;
  // `cpu`, `cpu-and-gpu`, `cpu-and-ne` or `all`, for Core ML; null: `cpu-and-ne`.
  const char *compute_units;
} CcmlOptions;

// One value. Only the members of its kind are read; the others may be zero.
typedef struct CcmlValue {
  // Kind: `CCML_TENSOR`, `CCML_INT64`, …
  uint32_t kind;
  // Element type of a tensor: `CCML_F32`, …
  uint32_t dtype;
  // Extents of a tensor, `rank` of them.
  const size_t *shape;
  // Number of dimensions.
  size_t rank;
  // Elements of a tensor in row-major order, aligned to their type. Inputs are read in place, without a copy.
  const void *data;
  // An integer.
  int64_t integer;
  // A number.
  double number;
  // A text.
  const char *text;
  // Integers of a sequence, or keys of a dictionary.
  const int64_t *integers;
  // Texts of a sequence, or keys of a dictionary.
  const char *const *texts;
  // Values of a dictionary.
  const double *numbers;
  // Number of integers, texts or numbers.
  size_t count;
} CcmlValue;

// A value and its name.
typedef struct CcmlFeature {
  // Name of the input, output or state.
  const char *name;
  // Its value.
  struct CcmlValue value;
} CcmlFeature;

// How text is generated. Begin with `ccml_generation_default`.
typedef struct CcmlGeneration {
  // Maximum number of tokens.
  size_t max_tokens;
  // Divides the logits; 0 selects the most likely token.
  float temperature;
  // Keeps that many tokens; 0 keeps all.
  size_t top_k;
  // Keeps the smallest set of tokens with at least this probability.
  float top_p;
  // Drops tokens below this fraction of the most likely one's probability.
  float min_p;
  // Divides the logits of tokens seen before; 1 disables it.
  float repetition_penalty;
  // Random seed; the same seed gives the same text.
  uint64_t seed;
  // Texts that end the generation, `stop_count` of them.
  const char *const *stop;
  // Number of stop texts.
  size_t stop_count;
} CcmlGeneration;

// Called with every piece of text, which lives until it returns; answers false to stop. It must not call the same
// language model.
typedef bool (*CcmlPiece)(const char *piece, void *user);

// One message of a conversation.
typedef struct CcmlMessage {
  // `system`, `user` or `assistant`.
  const char *role;
  // The text.
  const char *content;
} CcmlMessage;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What went wrong, in one line. Lives as long as the error.
//
// # Safety
// `error` is null or an error of this library that is not freed.
const char *ccml_error_message(const struct CcmlError *error);

// Stable name of the kind of error: `input`, `not-found`, `unsupported`, `model`, `io`, `argument`, `aborted`, …
//
// # Safety
// `error` is null or an error of this library that is not freed.
const char *ccml_error_kind(const struct CcmlError *error);

// File or folder that the error is about, or null.
//
// # Safety
// `error` is null or an error of this library that is not freed.
const char *ccml_error_file(const struct CcmlError *error);

// Input, output or state that the error is about, or null.
//
// # Safety
// `error` is null or an error of this library that is not freed.
const char *ccml_error_feature(const struct CcmlError *error);

// What was expected, or null.
//
// # Safety
// `error` is null or an error of this library that is not freed.
const char *ccml_error_expected(const struct CcmlError *error);

// What was found instead, or null.
//
// # Safety
// `error` is null or an error of this library that is not freed.
const char *ccml_error_found(const struct CcmlError *error);

// Frees an error; null is allowed.
//
// # Safety
// `error` is null or an error of this library that is not freed.
void ccml_error_free(struct CcmlError *error);

// Version of the library.
const char *ccml_version(void);

// Opens a `.mlpackage`, `.mlmodel` or `.mlmodelc`. Null and an error if it can't be opened or run.
//
// # Safety
// `path` is a text; `options` is null or its members are null or texts; `error` is null or points to a pointer.
struct CcmlModel *ccml_model_open(const char *path,
                                  const struct CcmlOptions *options,
                                  struct CcmlError **error);

// Describes a model as JSON: `function` that is loaded, `engine`, and `model` with its functions (inputs, outputs, states),
// specification version and metadata. Freed by `ccml_string_free`.
//
// # Safety
// `model` is a model that is not freed; `error` is null or points to a pointer.
char *ccml_model_describe(const struct CcmlModel *model,
                          struct CcmlError **error);

// Predicts. Inputs are read in place; nobody may write to them until this returns. A model with states needs `state`, which
// it changes; others take null.
//
// # Safety
// `model` is a model that is not freed; `inputs` points to `count` features whose members are what their kinds say;
// `state` is null or a state that is not freed; `error` is null or points to a pointer.
struct CcmlOutputs *ccml_model_predict(const struct CcmlModel *model,
                                       const struct CcmlFeature *inputs,
                                       size_t count,
                                       struct CcmlState *state,
                                       struct CcmlError **error);

// Frees a model; null is allowed.
//
// # Safety
// `model` is null or a model that is not freed and not in use.
void ccml_model_free(struct CcmlModel *model);

// Frees a text that the library gave out for freeing; null is allowed.
//
// # Safety
// `text` is null, or came from a function that names this one, and is freed once.
void ccml_string_free(char *text);

// Number of outputs.
//
// # Safety
// `outputs` is null or an object of this library that is not freed.
size_t ccml_outputs_count(const struct CcmlOutputs *outputs);

// One output, or null if there are not so many. Lives as long as the outputs.
//
// # Safety
// `outputs` is null or an object of this library that is not freed.
const struct CcmlFeature *ccml_outputs_at(const struct CcmlOutputs *outputs, size_t index);

// The output of a name, or null if there is none. Lives as long as the outputs.
//
// # Safety
// `outputs` is null or an object of this library that is not freed; `name` is null or a text.
const struct CcmlFeature *ccml_outputs_find(const struct CcmlOutputs *outputs, const char *name);

// Frees outputs; null is allowed.
//
// # Safety
// `outputs` is null or an object of this library that is not freed.
void ccml_outputs_free(struct CcmlOutputs *outputs);

// Zeroed states for a model.
//
// # Safety
// `model` is a model that is not freed; `error` is null or points to a pointer.
struct CcmlState *ccml_state_new(const struct CcmlModel *model, struct CcmlError **error);

// Copies one state: outputs of one tensor.
//
// # Safety
// `state` is a state that is not freed; `name` is a text; `error` is null or points to a pointer.
struct CcmlOutputs *ccml_state_read(const struct CcmlState *state,
                                    const char *name,
                                    struct CcmlError **error);

// Overwrites one state with a tensor of its shape; returns false and an error if it does not fit.
//
// # Safety
// `state` is a state that is not freed; `name` is a text; `value` points to a value whose members are what its kind says;
// `error` is null or points to a pointer.
bool ccml_state_write(struct CcmlState *state,
                      const char *name,
                      const struct CcmlValue *value,
                      struct CcmlError **error);

// Zeroes all states; returns false and an error if memory runs out.
//
// # Safety
// `state` is a state that is not freed; `error` is null or points to a pointer.
bool ccml_state_reset(struct CcmlState *state, struct CcmlError **error);

// Frees a state; null is allowed.
//
// # Safety
// `state` is null or a state that is not freed and not in use.
void ccml_state_free(struct CcmlState *state);

// The defaults: 256 tokens, the most likely ones.
struct CcmlGeneration ccml_generation_default(void);

// Opens the language model in a folder. Null and an error if it can't be opened.
//
// # Safety
// `path` is a text; `options` is null or its members are null or texts; `error` is null or points to a pointer.
struct CcmlLanguage *ccml_language_open(const char *path,
                                        const struct CcmlOptions *options,
                                        struct CcmlError **error);

// Continues a text, without a chat template. `piece` may be null. Returns the whole text, freed by `ccml_string_free`.
//
// # Safety
// `model` is a language model that is not freed; `prompt` is a text; `generation` is null (the defaults) or its stop texts
// are texts; `piece` may be called with `user` on this thread; `error` is null or points to a pointer.
char *ccml_language_generate(const struct CcmlLanguage *model,
                             const char *prompt,
                             const struct CcmlGeneration *generation,
                             CcmlPiece piece,
                             void *user,
                             struct CcmlError **error);

// Answers a conversation through the model's chat template. `piece` may be null. Returns the whole answer, freed by
// `ccml_string_free`.
//
// # Safety
// Same as `ccml_language_generate`; `messages` points to `count` messages of texts.
char *ccml_language_chat(const struct CcmlLanguage *model,
                         const struct CcmlMessage *messages,
                         size_t count,
                         const struct CcmlGeneration *generation,
                         CcmlPiece piece,
                         void *user,
                         struct CcmlError **error);

// Frees a language model; null is allowed.
//
// # Safety
// `model` is null or a language model that is not freed and not in use.
void ccml_language_free(struct CcmlLanguage *model);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CANDLE_COREML_H */
