// A name changes with everything that decides a row's bits, and with nothing else.
#include <gtest/gtest.h>

#include <set>

#include "kv/names.h"
#include "kv_fixture.h"

namespace larder {
namespace {

Digest D(uint8_t value) {
  Digest digest;
  digest.bytes[0] = value;
  return digest;
}

struct Case {
  std::vector<int> windows = {0, 4, 0};
  int heads = 2, dim = 8;
  KvIdentity identity{.weights = D(1),
                      .tokenizer = D(2),
                      .rope = D(3),
                      .numerics = D(4),
                      .codec = "f16",
                      .adapter = "",
                      .layer_map = ""};
  int kind = 0;
  std::string tenant = "t";
  std::vector<std::vector<int32_t>> chunks = {{1, 2, 3}};

  Digest Name() const {
    const auto shape = KvShape::Create(windows, heads, dim, KvType::kI16);
    const NameChain names(*shape, identity, nullptr);
    Digest name = names.Root(kind, tenant);
    for (const auto& chunk : chunks) name = names.Block(name, chunk);
    return name;
  }
};

TEST(Names, AnySingleChangeGivesAnotherName) {
  std::vector<Case> cases(1);
  const auto add = [&](auto change) {
    Case changed;
    change(changed);
    cases.push_back(changed);
  };
  add([](Case& c) { c.identity.weights = D(9); });
  add([](Case& c) { c.identity.tokenizer = D(9); });
  add([](Case& c) { c.identity.rope = D(9); });
  add([](Case& c) { c.identity.numerics = D(9); });
  add([](Case& c) { c.identity.codec = "f32"; });
  add([](Case& c) { c.identity.adapter = "x"; });
  add([](Case& c) { c.identity.layer_map = "x"; });
  add([](Case& c) { c.windows = {0, 4, 0, 0}; });
  add([](Case& c) { c.windows = {0, 0, 4}; });  // the same kinds, other layers
  add([](Case& c) { c.heads = 3; });
  add([](Case& c) { c.dim = 16; });
  add([](Case& c) { c.kind = 1; });
  add([](Case& c) { c.kind = 1, c.windows = {0, 5, 0}; });
  add([](Case& c) { c.tenant = "u"; });
  add([](Case& c) { c.tenant = ""; });
  add([](Case& c) { c.chunks = {{1, 2, 4}}; });
  add([](Case& c) { c.chunks = {{1, 2}}; });
  add([](Case& c) { c.chunks = {{1, 2, 3, 0}}; });
  add([](Case& c) { c.chunks = {{1}, {2, 3}}; });
  add([](Case& c) { c.chunks = {{1, 2}, {3}}; });
  std::set<Digest> names;
  for (const Case& one : cases) names.insert(one.Name());
  EXPECT_EQ(names.size(), cases.size());
}

TEST(Names, FieldsCannotBeConfusedByMovingTheirBorders) {
  Case a, b;
  a.identity.codec = "f16x", a.identity.adapter = "";
  b.identity.codec = "f16", b.identity.adapter = "x";
  EXPECT_NE(a.Name(), b.Name());
  a = {}, b = {};
  a.identity.adapter = "x";
  b.identity.layer_map = "x";
  EXPECT_NE(a.Name(), b.Name());
  a = {}, b = {};
  a.identity.adapter = "salt", a.tenant = "";  // a tenant that calls itself like an adapter
  b.identity.adapter = "", b.tenant = "salt";
  EXPECT_NE(a.Name(), b.Name());
}

TEST(Names, SameInputsGiveTheSameNameForEver) {
  // The digest of docs/formats/block-names.md, section "Example".
  EXPECT_EQ(Case{}.Name(), Case{}.Name());
  EXPECT_EQ(Case{}.Name().Hex(), "cbda9260bcd5cd062e07d82d95a20774901632ce131619f1c2ca1209ae8b6afe");
}

TEST(Shape, GroupsLayersByWindow) {
  const auto shape = KvShape::Create({512, 512, 0, 512}, 2, 8, KvType::kF32);
  ASSERT_TRUE(shape);
  ASSERT_EQ(shape->kinds().size(), 2u);
  EXPECT_EQ(shape->kinds()[0].name, "window512");
  EXPECT_EQ(shape->kinds()[0].layers, (std::vector<int>{0, 1, 3}));
  EXPECT_EQ(shape->kinds()[1].name, "full");
  EXPECT_EQ(shape->KindOf(2), 1);
  EXPECT_EQ(shape->BlockBytes(0), 3 * 2 * shape->page_bytes());
  EXPECT_EQ(shape->LaneOffset(0, 0), 0u);
  EXPECT_EQ(shape->LaneOffset(3, 1), 5 * shape->page_bytes());
  EXPECT_EQ(shape->LaneOffset(2, 1), shape->page_bytes());
  EXPECT_EQ(shape->BytesPerToken(), 4u * 2 * 2 * 8 * 4);
}

TEST(Shape, RefusesWhatMakesNoSense) {
  EXPECT_FALSE(KvShape::Create({}, 2, 8, KvType::kF32));
  EXPECT_FALSE(KvShape::Create({0}, 0, 8, KvType::kF32));
  EXPECT_FALSE(KvShape::Create({0}, 1, 0, KvType::kF32));
  EXPECT_FALSE(KvShape::Create({0}, 1, 1 << 30, KvType::kF32));
  EXPECT_FALSE(KvShape::Create({0, -1}, 2, 8, KvType::kF32));
  EXPECT_FALSE(KvShape::Create({0, 1, 2, 3, 4}, 2, 8, KvType::kF32));
}

}  // namespace
}  // namespace larder
