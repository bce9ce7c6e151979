/* The functions of ik_llama.cpp that model_peers.py calls, compiled against its header, because its structures change
 * often. It has BERT's encoder, but no classifier: the answer to a row is the hidden state of its first token. */

#include <stdlib.h>
#include <string.h>

#include "llama.h"

typedef struct {
    struct llama_model* model;
    struct llama_context* context;
    int tokens, width;
} encoder;

static void say_nothing(enum ggml_log_level level, const char* text, void* data) {
    (void)level, (void)text, (void)data;
}

/* FP32 file -> IQ2_BN file; returns 0 on success. Rows of IQ2_BN cannot be looked up, so the word embedding becomes
 * Q8_0, in which ternary values are exact. */
int ik_quantize(const char* from, const char* to) {
    llama_log_set(say_nothing, NULL);
    struct llama_model_quantize_params options = llama_model_quantize_default_params();
    options.ftype = LLAMA_FTYPE_MOSTLY_IQ2_BN;
    options.token_embedding_type = GGML_TYPE_Q8_0;
    return (int)llama_model_quantize(from, to, &options);
}

/* Returns NULL if the file does not load. */
encoder* ik_open(const char* path, int tokens, int threads) {
    llama_log_set(say_nothing, NULL);
    llama_backend_init();
    struct llama_model* model = llama_model_load_from_file(path, llama_model_default_params());
    if (model == NULL) return NULL;
    struct llama_context_params options = llama_context_default_params();
    options.n_ctx = options.n_batch = options.n_ubatch = (uint32_t)tokens;
    options.n_threads = options.n_threads_batch = (uint32_t)threads;
    options.embeddings = true;
    options.pooling_type = LLAMA_POOLING_TYPE_CLS;
    struct llama_context* context = llama_init_from_model(model, options);
    if (context == NULL) return NULL;
    encoder* opened = malloc(sizeof *opened);
    *opened = (encoder){model, context, tokens, llama_model_n_embd(model)};
    return opened;
}

int ik_width(const encoder* opened) { return opened->width; }

/* Writes the hidden state (width,) of the first token of a row. Returns 0 on success. */
int ik_run(encoder* opened, const int32_t* ids, int count, float* hidden) {
    if (count > opened->tokens) return -1;
    struct llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; ++i) {
        batch.token[i] = ids[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    llama_kv_cache_clear(opened->context);
    const int failed = llama_decode(opened->context, batch);
    llama_batch_free(batch);
    const float* out = failed ? NULL : llama_get_embeddings_seq(opened->context, 0);
    if (out == NULL) return -1;
    memcpy(hidden, out, (size_t)opened->width * sizeof *hidden);
    return 0;
}
