// What torch's CPU build asks of a device before autograd or a copy may name one: a guard and hooks that do nothing.
// Tensors of such a device exist in FakeTensorMode only, with sizes and without numbers. A CUDA card; with MAC an Apple GPU.

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace at {
struct HooksOfNoCard : CUDAHooksInterface {
  explicit HooksOfNoCard(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

struct HooksOfNoMac : MPSHooksInterface {
  void init() const override {}
  bool hasMPS() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool isOnMacOSorNewer(unsigned, unsigned) const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

// Of one kind only: torch wants to know of one accelerator.
#ifdef MAC
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, HooksOfNoMac)
#else
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, HooksOfNoCard)
#endif
} // namespace at

namespace {
using c10::Device;
using c10::Stream;
#ifdef MAC
constexpr auto KIND = c10::DeviceType::MPS;
#else
constexpr auto KIND = c10::DeviceType::CUDA;
#endif

struct GuardOfNoCard : c10::impl::NoOpDeviceGuardImpl<KIND> {
  static Device card() { return Device(KIND, 0); }
  static Stream stream() { return Stream(Stream::DEFAULT, card()); }
  Device exchangeDevice(Device) const override { return card(); }
  Device getDevice() const override { return card(); }
  Stream getStream(Device) const noexcept override { return stream(); }
  Stream getNewStream(Device, int) const override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  void record(void**, const Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

GuardOfNoCard guard;
c10::impl::DeviceGuardImplRegistrar registrar(KIND, &guard);
} // namespace
