// The library as Python calls it (`decoder.py`, `growth.py`).
#include "decoder.h"

extern "C" {

void* treedraft_decoder_new(const treedraft::Shape* shape) {
  return new treedraft::Decoder(*shape);
}

void treedraft_decoder_free(void* decoder) { delete static_cast<treedraft::Decoder*>(decoder); }

void treedraft_decoder_set_norm(void* decoder, int32_t layer, int32_t norm, const float* weights,
                                int32_t hidden) {
  auto& own = static_cast<treedraft::Decoder*>(decoder)->weights();
  own.set_norm(layer, static_cast<treedraft::Norm>(norm), weights, hidden);
}

void treedraft_decoder_set_linear(void* decoder, int32_t layer, int32_t part, const float* weights,
                                  const float* bias, int32_t outputs, int32_t inputs,
                                  int32_t storage) {
  auto& own = static_cast<treedraft::Decoder*>(decoder)->weights();
  own.set_linear(layer, static_cast<treedraft::Part>(part), weights, bias, outputs, inputs,
                 static_cast<treedraft::Storage>(storage));
}

int64_t treedraft_decoder_read(void* decoder, int32_t num_threads) {
  return static_cast<treedraft::Decoder*>(decoder)->read(num_threads);
}

void treedraft_decoder_forward(void* decoder, const treedraft::Pass* pass) {
  static_cast<treedraft::Decoder*>(decoder)->forward(*pass);
}

int64_t treedraft_decoder_grow(void* decoder, const treedraft::GrowthOrder* order) {
  return static_cast<treedraft::Decoder*>(decoder)->grow_trees(*order);
}

}  // extern "C"
