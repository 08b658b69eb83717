// torch's header of the transforms of torch.func includes this one, which torch does not install. What stands here lets
// it be read; nothing calls it.
#pragma once

#include <string>

namespace nlohmann {

struct json {
  template <class Value>
  explicit json(const Value&);
  static json parse(const std::string&);
  std::string dump() const;
  template <class Value>
  Value get() const;
};

}  // namespace nlohmann
