"""Where endpoints come from. An adapter: no other adapter imports it; the composition root joins them."""
