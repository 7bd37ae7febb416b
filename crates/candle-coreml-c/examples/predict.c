/* Predicts with a model, reads an error, keeps a state, and streams an answer:
 *     predict models/tiny-intent/intent.mlpackage models/tiny-qwen3
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "candle_coreml.h"

/* Says what went wrong, and frees it. */
static int failed(const char *what, CcmlError *error) {
    fprintf(stderr, "%s: %s (%s)\n", what, ccml_error_message(error), ccml_error_kind(error));
    ccml_error_free(error);
    return 1;
}

/* Prints a piece of text; the number of pieces is behind `user`. */
static bool print_piece(const char *piece, void *user) {
    ++*(int *)user;
    fputs(piece, stdout);
    return true;
}

static int predict(const char *path) {
    CcmlError *error = NULL;
    CcmlModel *model = ccml_model_open(path, NULL, &error);
    if (!model) return failed("open", error);

    char *json = ccml_model_describe(model, &error);
    if (!json) return failed("describe", error);
    printf("described in %zu bytes\n", strlen(json));
    ccml_string_free(json);

    const int32_t ids[] = {2, 40, 41, 3}, mask[] = {1, 1, 1, 1};
    const size_t shape[] = {1, 4};
    CcmlFeature inputs[] = {
        {"input_ids", {.kind = CCML_TENSOR, .dtype = CCML_I32, .shape = shape, .rank = 2, .data = ids}},
        {"attention_mask", {.kind = CCML_TENSOR, .dtype = CCML_I32, .shape = shape, .rank = 2, .data = mask}},
    };
    CcmlOutputs *outputs = ccml_model_predict(model, inputs, 2, NULL, &error);
    if (!outputs) return failed("predict", error);
    const CcmlFeature *logits = ccml_outputs_find(outputs, "logits");
    if (!logits || logits->value.kind != CCML_TENSOR) return 1;
    printf("logits of type %u:", (unsigned)logits->value.dtype);
    for (size_t i = 0; i < logits->value.rank; i++) printf(" %zu", logits->value.shape[i]);
    printf("\n");
    ccml_outputs_free(outputs);

    /* Without the mask: the error names it. */
    if (ccml_model_predict(model, inputs, 1, NULL, &error)) return 1;
    printf("refused: %s, input %s\n", ccml_error_kind(error), ccml_error_feature(error));
    ccml_error_free(error);
    ccml_model_free(model);
    return 0;
}

static int keep_state(const char *folder) {
    char path[1024];
    snprintf(path, sizeof path, "%s/qwen_FFN_PF_lut6_chunk_01of02.mlpackage", folder);
    CcmlError *error = NULL;
    CcmlOptions options = {.function = "infer"};
    CcmlModel *model = ccml_model_open(path, &options, &error);
    if (!model) return failed("open", error);
    CcmlState *state = ccml_state_new(model, &error);
    if (!state) return failed("state", error);
    if (!ccml_state_reset(state, &error)) return failed("reset", error);
    if (ccml_state_read(state, "no such state", &error)) return 1;
    printf("refused: %s, state %s\n", ccml_error_kind(error), ccml_error_feature(error));
    ccml_error_free(error);
    ccml_state_free(state);
    ccml_model_free(model);
    return 0;
}

static int answer(const char *folder) {
    CcmlError *error = NULL;
    CcmlLanguage *language = ccml_language_open(folder, NULL, &error);
    if (!language) return failed("open", error);
    CcmlMessage question = {"user", "What is 37 + 45?"};
    CcmlGeneration how = ccml_generation_default();
    how.max_tokens = 64;
    int pieces = 0;
    char *text = ccml_language_chat(language, &question, 1, &how, print_piece, &pieces, &error);
    if (!text) return failed("chat", error);
    printf("\nanswered in %d pieces: %s\n", pieces, text);
    ccml_string_free(text);
    ccml_language_free(language);
    return 0;
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: %s MODEL LANGUAGE_MODEL\n", arguments[0]);
        return 2;
    }
    printf("candle-coreml %s\n", ccml_version());
    return predict(arguments[1]) || keep_state(arguments[2]) || answer(arguments[2]);
}
