# Flow control's figures as bytes: nothing here for siblings.
