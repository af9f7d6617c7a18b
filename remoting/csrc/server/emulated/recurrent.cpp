// The fused cells of torch.nn.LSTM, GRU and their cell modules, as plain tensor arithmetic. The layouts of gates and
// workspaces are those of the CUDA kernels: gates i, f, g, o and r, z, n side by side in the last dimension.
#include <ATen/ATen.h>

#include <tuple>
#include <vector>

#include "server/emulated/kernels.h"

namespace elara::server::emulated {

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

Tensor with_bias(const Tensor& gates, const MaybeTensor& bias) {
  return bias.has_value() && bias->defined() ? gates + *bias : gates;
}

// The derivative of the logistic function and of tanh, by their values.
Tensor slope_of_sigmoid(const Tensor& value) { return value * (1 - value); }
Tensor slope_of_tanh(const Tensor& value) { return 1 - value * value; }

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& cx,
                                             const MaybeTensor& input_bias, const MaybeTensor& hidden_bias) {
  const auto gates = (with_bias(input_gates, input_bias) + with_bias(hidden_gates, hidden_bias)).chunk(4, -1);
  const Tensor in = gates[0].sigmoid();
  const Tensor forget = gates[1].sigmoid();
  const Tensor cell = gates[2].tanh();
  const Tensor out = gates[3].sigmoid();
  const Tensor cy = forget * cx + in * cell;
  return {out * cy.tanh(), cy, at::cat({in, forget, cell, out}, -1)};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const MaybeTensor& grad_hy, const MaybeTensor& grad_cy,
                                                      const Tensor& cx, const Tensor& cy, const Tensor& workspace,
                                                      bool has_bias) {
  const bool from_hy = grad_hy.has_value() && grad_hy->defined();
  const bool from_cy = grad_cy.has_value() && grad_cy->defined();
  if (!from_hy && !from_cy) return {};
  const auto gates = workspace.chunk(4, -1);
  const Tensor &in = gates[0], &forget = gates[1], &cell = gates[2], &out = gates[3];
  const Tensor tanh_cy = cy.tanh();
  Tensor through_cy = from_cy ? *grad_cy : at::zeros_like(cy);
  Tensor grad_out = at::zeros_like(out);
  if (from_hy) {
    through_cy = through_cy + *grad_hy * out * slope_of_tanh(tanh_cy);
    grad_out = *grad_hy * tanh_cy * slope_of_sigmoid(out);
  }
  const Tensor grad_gates =
      at::cat({through_cy * cell * slope_of_sigmoid(in), through_cy * cx * slope_of_sigmoid(forget),
               through_cy * in * slope_of_tanh(cell), grad_out},
              -1);
  return {grad_gates, through_cy * forget, has_bias ? grad_gates.sum(0) : Tensor()};
}

std::tuple<Tensor, Tensor> gru_cell(const Tensor& input_gates, const Tensor& hidden_gates, const Tensor& hx,
                                    const MaybeTensor& input_bias, const MaybeTensor& hidden_bias) {
  const auto from_input = with_bias(input_gates, input_bias).chunk(3, -1);
  const auto from_hidden = with_bias(hidden_gates, hidden_bias).chunk(3, -1);
  const Tensor reset = (from_input[0] + from_hidden[0]).sigmoid();
  const Tensor update = (from_input[1] + from_hidden[1]).sigmoid();
  const Tensor fresh = (from_input[2] + reset * from_hidden[2]).tanh();
  return {fresh + update * (hx - fresh), at::cat({reset, update, fresh, hx, from_hidden[2]}, -1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad_hy, const Tensor& workspace,
                                                                     bool has_bias) {
  const auto saved = workspace.chunk(5, -1);
  const Tensor &reset = saved[0], &update = saved[1], &fresh = saved[2], &hx = saved[3], &hidden = saved[4];
  const Tensor grad_update = grad_hy * (hx - fresh) * slope_of_sigmoid(update);
  const Tensor grad_fresh = grad_hy * (1 - update) * slope_of_tanh(fresh);
  const Tensor grad_reset = grad_fresh * hidden * slope_of_sigmoid(reset);
  const Tensor grad_input = at::cat({grad_reset, grad_update, grad_fresh}, -1);
  const Tensor grad_hidden = at::cat({grad_reset, grad_update, grad_fresh * reset}, -1);
  return {grad_input, grad_hidden, grad_hy * update, has_bias ? grad_input.sum(0) : Tensor(),
          has_bias ? grad_hidden.sum(0) : Tensor()};
}

}  // namespace

void add_recurrent_kernels(torch::Library& library) {
  library.impl("_thnn_fused_lstm_cell", &lstm_cell);
  library.impl("_thnn_fused_lstm_cell_backward_impl", &lstm_cell_backward);
  library.impl("_thnn_fused_gru_cell", &gru_cell);
  library.impl("_thnn_fused_gru_cell_backward", &gru_cell_backward);
}

}  // namespace elara::server::emulated
